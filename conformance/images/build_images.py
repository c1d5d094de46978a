#!/usr/bin/env python3
"""Build the container images of the conformance suite as OCI archives, without docker and without a registry.

Everything comes from the package registries that this machine has: Go binaries built from module dependencies
(agnhost, sample-apiserver, etcd, nnp; coredns if it is there) and Debian packages fetched and unpacked by apt and dpkg.
The archives carry the exact names that the suite asks for, so `rusternetes image import FILE` is all that a node needs.

Entries are sorted and times zero, so the same inputs (the busybox binary among them: it carries its build time) give the same digests.

    build_images.py --bin DIR --bin DIR --k8s DIR --out DIR [--bundle FILE] [--mirror URL] [--without NAME]
    build_images.py --sources-only --out DIR [--mirror URL]

--bin      folder with built binaries (repeatable; the first that has a binary wins)
--k8s      root of the k8s.io/kubernetes module (for the test data that belongs into agnhost and nautilus)
--out      where the archives, the shared blobs and the unpacked package trees go
--without  an image to leave out, by the name of its binary (repeatable)
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

ARCH = "amd64"
EPOCH = "1970-01-01T00:00:00Z"
E2E = "registry.k8s.io/e2e-test-images/"
# What is dropped from Debian packages: nothing that a test could ask for.
DROP = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/bash-completion",
        "usr/share/zoneinfo", "usr/share/i18n", "usr/share/perl5", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/perl-base",
        "var/lib/dpkg", "var/cache", "usr/share/common-licenses", "etc/init.d", "lib/systemd", "usr/lib/systemd")

PAUSE_C = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void down(int s) { _exit(s == SIGINT || s == SIGTERM ? 0 : 1); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) {
  struct sigaction d = {.sa_handler = down}, r = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
  if (sigaction(SIGINT, &d, 0) || sigaction(SIGTERM, &d, 0) || sigaction(SIGCHLD, &r, 0)) return 3;
  for (;;) pause();
}
"""

NGINX_CONF = """\
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr warn;
events { worker_connections 256; }
http {
  include /etc/nginx/mime.types;
  access_log /dev/stdout;
  server { listen 80 default_server; root /usr/share/nginx/html; index index.html; }
}
"""


# The Debian packages of images, with all that they depend on.
PACKAGES = {
    "ipc": ("util-linux",),
    "agnhost": ("bind9-dnsutils", "curl", "netcat-openbsd", "iproute2", "iperf", "bash", "util-linux", "iputils-ping", "libc-bin"),
    "nginx": ("nginx",),
    "dnsutils": ("bind9-dnsutils", "bash", "coreutils", "grep", "sed", "mawk", "libc-bin"),
}


class Tree:
    """The entries of one image layer, by path; later entries win."""

    def __init__(self):
        self.entries = {}

    def _put(self, path, kind, mode, data=None, link="", uid=0, gid=0):
        path = path.strip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self._put(parent, tarfile.DIRTYPE, 0o755)
        self.entries[path] = (kind, mode, data, link, uid, gid)

    def dir(self, path, mode=0o755, uid=0, gid=0):
        self._put(path, tarfile.DIRTYPE, mode, uid=uid, gid=gid)
        return self

    def file(self, path, data, mode=0o644, uid=0, gid=0):
        self._put(path, tarfile.REGTYPE, mode, data.encode() if isinstance(data, str) else data, uid=uid, gid=gid)
        return self

    def link(self, path, target):
        self._put(path, tarfile.SYMTYPE, 0o777, link=target)
        return self

    def copy(self, path, source, mode=None):
        with open(source, "rb") as f:
            return self.file(path, f.read(), mode if mode is not None else os.stat(source).st_mode & 0o7777)

    def root(self, folder):
        """Add a folder of this machine as the tree's root, owners kept."""
        for here, dirs, files in os.walk(folder):
            dirs.sort()
            for name in sorted(dirs + files):
                full = os.path.join(here, name)
                rel = os.path.relpath(full, folder)
                if any(rel == d or rel.startswith(d + "/") for d in DROP):
                    continue
                st = os.lstat(full)
                if os.path.islink(full):
                    self._put(rel, tarfile.SYMTYPE, 0o777, link=os.readlink(full), uid=st.st_uid, gid=st.st_gid)
                elif os.path.isdir(full):
                    self._put(rel, tarfile.DIRTYPE, st.st_mode & 0o7777, uid=st.st_uid, gid=st.st_gid)
                elif os.path.isfile(full):
                    with open(full, "rb") as f:
                        self._put(rel, tarfile.REGTYPE, st.st_mode & 0o7777, f.read(), uid=st.st_uid, gid=st.st_gid)
        return self

    def tar(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
            for path in sorted(self.entries):
                kind, mode, data, link, uid, gid = self.entries[path]
                info = tarfile.TarInfo(path + ("/" if kind == tarfile.DIRTYPE else ""))
                info.type, info.mode, info.linkname, info.uid, info.gid = kind, mode, link, uid, gid
                info.size = len(data) if data is not None else 0
                t.addfile(info, io.BytesIO(data) if data is not None else None)
        return out.getvalue()


class Builder:
    def __init__(self, args):
        self.args = args
        self.blobs = os.path.join(args.out, "blobs")
        self.layers = {}
        self.built = {}
        os.makedirs(self.blobs, exist_ok=True)

    # -- sources ------------------------------------------------------------------------------------------------------
    def binary(self, name):
        for folder in self.args.bin:
            if os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
        sys.exit(f"no binary {name!r} in {', '.join(self.args.bin)}: build it first")

    def has(self, name):
        return any(os.path.isfile(os.path.join(folder, name)) for folder in self.args.bin)

    def debian(self, image):
        """Unpack the packages of an image and all that they depend on; the folder is the cache key."""
        packages = PACKAGES[image]
        root = os.path.join(self.args.out, "deb", "+".join(packages), "root")
        if os.path.exists(root + ".done"):
            return root
        shutil.rmtree(os.path.dirname(root), ignore_errors=True)
        archives = os.path.join(os.path.dirname(root), "archives")
        os.makedirs(archives + "/partial")
        os.makedirs(root)
        status = os.path.join(os.path.dirname(root), "status")
        open(status, "w").close()
        # An empty dpkg status makes apt resolve the whole closure instead of what this machine happens to lack.
        subprocess.run(["apt-get", "install", "-qq", "-y", "--download-only", "--no-install-recommends",
                        "-o", f"Dir::State::status={status}", "-o", f"Dir::Cache::archives={archives}",
                        "-o", "Debug::NoLocking=1", *packages], check=True, stdout=subprocess.DEVNULL)
        for name in ("bin", "sbin", "lib", "lib32", "lib64"):
            os.makedirs(os.path.join(root, "usr", name), exist_ok=True)
            os.symlink(f"usr/{name}", os.path.join(root, name))
        for deb in sorted(os.listdir(archives)):
            if not deb.endswith(".deb"):
                continue
            p = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", os.path.join(archives, deb)], stdout=subprocess.PIPE)
            subprocess.run(["tar", "-xp", "--keep-directory-symlink", "-C", root], stdin=p.stdout, check=True)
            if p.wait():
                sys.exit(f"cannot unpack {deb}")
        shutil.rmtree(archives)
        open(root + ".done", "w").close()
        return root

    # -- trees --------------------------------------------------------------------------------------------------------
    @staticmethod
    def base(tree, users=()):
        """Folders and user data that every image with a shell has."""
        for d in ("dev", "proc", "sys", "run", "etc", "root", "home", "var/log", "var/run" if "run" not in tree.entries else "var/lib"):
            if d not in tree.entries:
                tree.dir(d)
        tree.dir("tmp", 0o1777).dir("var/tmp", 0o1777)
        passwd = ["root:x:0:0:root:/root:/bin/sh", "daemon:x:1:1:daemon:/:/bin/false", "bin:x:2:2:bin:/bin:/bin/false",
                  "www-data:x:33:33:www-data:/var/www:/bin/false", "nobody:x:65534:65534:nobody:/:/bin/false"]
        group = ["root:x:0:", "daemon:x:1:", "bin:x:2:", "tty:x:5:", "www-data:x:33:", "nogroup:x:65534:"]
        for u in users:
            passwd.append(u["passwd"])
            group.extend(u["group"])
        tree.file("etc/passwd", "\n".join(passwd) + "\n").file("etc/group", "\n".join(group) + "\n")
        tree.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
        return tree

    def busybox_binary(self):
        """busybox 1.37 with its default configuration, static, from Debian's source package.

        Debian's own binary does not do: its shell prefers applets to PATH (its `nc` has no -u) and drops variables whose names
        are no identifiers (`data-1`); and another shell does not do either, as a spec compares ash's error text.
        """
        for folder in self.args.bin or ():
            if os.path.isfile(os.path.join(folder, "busybox")):
                return os.path.join(folder, "busybox")
        work = os.path.join(self.args.out, "busybox")
        binary = os.path.join(work, "busybox")
        if os.path.exists(binary):
            return binary
        if not self.args.mirror:
            sys.exit("no busybox binary in --bin: name a Debian mirror with --mirror to build it from source")
        missing = [tool for tool in ("gcc", "make", "bzip2") if not shutil.which(tool)]
        if missing:
            sys.exit(f"busybox is built from source, which needs {', '.join(missing)}: apt-get install {' '.join(missing)}")
        shutil.rmtree(work, ignore_errors=True)
        for d in ("lists/partial", "cache/partial"):
            os.makedirs(os.path.join(work, d))
        with open(os.path.join(work, "sources.list"), "w") as f:
            signed = f"[signed-by={self.args.keyring}] " if self.args.keyring else ""
            f.write(f"deb-src {signed}{self.args.mirror} {self.args.suite} main\n")
        apt = ["apt-get", "-qq", "-o", f"Dir::Etc::SourceList={work}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
               "-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]
        subprocess.run(apt + ["update"], check=True)
        subprocess.run(apt + ["source", "--download-only", "busybox"], check=True, cwd=work)
        archive = next(n for n in os.listdir(work) if n.endswith(".orig.tar.bz2"))
        subprocess.run(["tar", "xf", archive], check=True, cwd=work)
        source = os.path.join(work, archive.replace(".orig.tar.bz2", "").replace("_", "-"))
        subprocess.run(["make", "defconfig"], check=True, cwd=source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(os.path.join(source, ".config")) as f:
            config = f.read().replace("# CONFIG_STATIC is not set", "CONFIG_STATIC=y").replace("CONFIG_TC=y", "# CONFIG_TC is not set")
        with open(os.path.join(source, ".config"), "w") as f:
            f.write(config)
        subprocess.run(["make", f"-j{os.cpu_count()}"], check=True, cwd=source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.copy2(os.path.join(source, "busybox"), binary)
        return binary

    def busybox(self, tree):
        """busybox at /bin/busybox, and an applet link for every name that the tree does not already have."""
        box = self.busybox_binary()
        merged = tree.entries.get("bin", (None,))[0] == tarfile.SYMTYPE
        bindir = "usr/bin" if merged else "bin"
        tree.copy(bindir + "/busybox", box, 0o755)
        for applet in subprocess.run([box, "--list"], check=True, capture_output=True, text=True).stdout.split():
            taken = any(f"{d}/{applet}" in tree.entries for d in ("bin", "sbin", "usr/bin", "usr/sbin"))
            if applet == "sh" or applet != "busybox" and not taken:
                tree.link(f"{bindir}/{applet}", "busybox")
        return tree

    # -- blobs --------------------------------------------------------------------------------------------------------
    def blob(self, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        path = os.path.join(self.blobs, digest[7:])
        if not os.path.exists(path):
            with open(path + ".tmp", "wb") as f:
                f.write(data)
            os.rename(path + ".tmp", path)
        return digest, len(data)

    def layer(self, name, make):
        """One layer, made once and shared by the images that name it."""
        if name not in self.layers:
            raw = make().tar()
            digest, size = self.blob(gzip.compress(raw, 6, mtime=0))
            self.layers[name] = {"diff": "sha256:" + hashlib.sha256(raw).hexdigest(), "digest": digest, "size": size, "raw": len(raw)}
        return self.layers[name]

    def image(self, names, layers, **config):
        config.setdefault("Env", ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
        cfg, cfg_size = self.blob(json.dumps({
            "created": EPOCH, "architecture": ARCH, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [l["diff"] for l in layers]},
            "history": [{"created": EPOCH, "created_by": "build_images.py"} for _ in layers]}, sort_keys=True).encode())
        man, man_size = self.blob(json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": cfg, "size": cfg_size},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": l["digest"], "size": l["size"]}
                       for l in layers]}, sort_keys=True).encode())
        for name in names:
            self.built[name] = {"manifest": (man, man_size), "blobs": [man, cfg] + [l["digest"] for l in layers],
                                "packed": sum(l["size"] for l in layers), "unpacked": sum(l["raw"] for l in layers)}

    def archive(self, path, names):
        """An OCI layout in a tar; containerd takes the image name from the annotation."""
        with tarfile.open(path + ".tmp", "w", format=tarfile.PAX_FORMAT) as t:
            def add(name, data):
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), 0o644
                t.addfile(info, io.BytesIO(data))
            add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            add("index.json", json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
                {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.built[n]["manifest"][0],
                 "size": self.built[n]["manifest"][1], "platform": {"architecture": ARCH, "os": "linux"},
                 "annotations": {"io.containerd.image.name": n, "org.opencontainers.image.ref.name": n.rsplit(":", 1)[1]}}
                for n in names]}, sort_keys=True).encode())
            for digest in sorted({b for n in names for b in self.built[n]["blobs"]}):
                with open(os.path.join(self.blobs, digest[7:]), "rb") as f:
                    add("blobs/sha256/" + digest[7:], f.read())
        os.rename(path + ".tmp", path)

    # -- the images ---------------------------------------------------------------------------------------------------
    def pause_layer(self):
        binary = os.path.join(self.args.out, "pause")
        subprocess.run(["gcc", "-Os", "-static", "-s", "-o", binary, "-x", "c", "-"], input=PAUSE_C.encode(), check=True)
        return Tree().copy("pause", binary, 0o755)

    def agnhost_tree(self):
        t = Tree().root(self.debian("agnhost"))
        self.base(t, [{"passwd": "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh",
                       "group": ["user-defined-in-image:x:1000:", "group-defined-in-image:x:50000:user-defined-in-image"]}])
        self.busybox(t)
        if "usr/bin/nc" not in t.entries or t.entries["usr/bin/nc"][3] == "busybox":
            t.link("usr/bin/nc", "nc.openbsd")       # Debian's alternatives system would make this link
        t.link("usr/local/bin/iperf", "/usr/bin/iperf").dir("uploads")
        porter = os.path.join(self.args.k8s, "test/images/agnhost/porter")
        t.copy("localhost.crt", porter + "/localhost.crt", 0o644).copy("localhost.key", porter + "/localhost.key", 0o644)
        self.coredns(t)
        self.fake_registry(t)
        return t

    def coredns(self, tree):
        """Some specs that are not [Conformance] run a name server of their own from the test images."""
        return tree.copy("coredns", self.binary("coredns"), 0o755) if self.has("coredns") else tree

    def fake_registry(self, tree):
        """The folder that `agnhost fake-registry-server` serves: pause, by the tag `testing`, as a manifest list."""
        pause = self.layer("pause", self.pause_layer)
        self.image(["registry.k8s.io/pause:3.10.1"], [pause], Entrypoint=["/pause"], User="65535:65535")
        man, size = self.built["registry.k8s.io/pause:3.10.1"]["manifest"]
        index = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": man, "size": size,
             "platform": {"architecture": ARCH, "os": "linux"}}]}, sort_keys=True).encode()
        digest, _ = self.blob(index)
        tree.file("var/registry/pause/manifests/testing", digest + "\n").file("var/registry/pause/manifests/" + digest, index)
        for b in self.built["registry.k8s.io/pause:3.10.1"]["blobs"]:
            kind = "manifests" if b == man else "blobs"
            tree.copy(f"var/registry/pause/{kind}/{b}", os.path.join(self.blobs, b[7:]), 0o644)

    def make(self):
        L = self.layer
        box = L("busybox", lambda: self.busybox(self.base(Tree())))
        pause = L("pause", self.pause_layer)
        self.image(["registry.k8s.io/pause:3.10.1"], [pause], Entrypoint=["/pause"], User="65535:65535")
        self.image([E2E + "busybox:1.37.0-1"], [box], Cmd=["sh"])
        self.image([E2E + "nonroot:1.4"], [box], Cmd=["/bin/sh"], User="1234")
        self.image([E2E + "nonewprivs:1.3"],
                   [box, L("nnp", lambda: Tree().copy("usr/local/bin/nnp", self.binary("nnp"), 0o6755))], Cmd=["nnp"])
        self.image([E2E + "ipc-utils:1.3"], [L("ipc", lambda: self.busybox(self.base(Tree().root(self.debian("ipc")))))], Cmd=["/bin/sh"])

        tools = L("agnhost-tools", self.agnhost_tree)
        agn = L("agnhost", lambda: Tree().copy("agnhost", self.binary("agnhost"), 0o755).link("agnhost-2", "agnhost"))
        ports = {f"{p}/tcp": {} for p in (80, 8080, 8081, 9376, 5000)}
        # AgnhostPrev is only ever rolled to or from: same content, another name.
        self.image([E2E + "agnhost:2.59", E2E + "agnhost:2.55"], [tools, agn], Entrypoint=["/agnhost"], Cmd=["pause"], ExposedPorts=ports)
        html = os.path.join(self.args.k8s, "test/images")
        for pet in ("nautilus", "kitten"):
            self.image([E2E + pet + ":1.7"],
                       [tools, agn, L(pet, lambda: Tree().copy(pet + ".jpg", f"{html}/{pet}/html/{pet}.jpg", 0o644)
                                      .copy("data.json", f"{html}/{pet}/html/data.json", 0o644))],
                       Entrypoint=["/agnhost"], Cmd=["test-webserver"])

        def nginx(banner):
            t = self.busybox(self.base(Tree().root(self.debian("nginx"))))
            t.file("etc/nginx/nginx.conf", NGINX_CONF).file("usr/share/nginx/html/index.html", f"<h1>Welcome to nginx!</h1>{banner}\n")
            return t.dir("var/log/nginx").dir("var/lib/nginx", 0o755)
        for tag in ("1.14-4", "1.15-4"):
            self.image([E2E + "nginx:" + tag], [L("nginx" + tag, lambda: nginx(tag))],
                       Cmd=["nginx", "-g", "daemon off;"], ExposedPorts={"80/tcp": {}}, StopSignal="SIGQUIT")

        self.image([E2E + "jessie-dnsutils:1.7"],
                   [L("dnsutils", lambda: self.coredns(self.busybox(self.base(Tree().root(self.debian("dnsutils"))))))], Cmd=["/bin/sh"])
        if "sample-apiserver" not in self.args.without:
            self.image([E2E + "sample-apiserver:1.29.2"],
                       [L("sample", lambda: Tree().dir("tmp", 0o1777).copy("sample-apiserver", self.binary("sample-apiserver"), 0o755))],
                       Entrypoint=["/sample-apiserver"])
        if "etcd" not in self.args.without:
            self.image(["registry.k8s.io/etcd:3.6.6-0"],
                       [box, L("etcd", lambda: Tree().copy("usr/local/bin/etcd", self.binary("etcd"), 0o755))], Cmd=["/usr/local/bin/etcd"])

    def sources(self):
        """What images are made of besides the binaries, into the cache."""
        self.busybox_binary()
        for image in PACKAGES:
            self.debian(image)


def debian_mirror():
    """The mirror that this machine's apt takes Debian from."""
    lines = subprocess.run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(REPO_URI)"], capture_output=True, text=True).stdout.splitlines()
    return next((line.split("|")[1] for line in lines if line.startswith("Debian|") and "security" not in line), "")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", action="append")
    p.add_argument("--k8s")
    p.add_argument("--out", required=True)
    p.add_argument("--mirror", default=os.environ.get("DEBIAN_MIRROR") or debian_mirror(), help="where busybox source comes from, if no --bin has one")
    p.add_argument("--suite", default="trixie", help="the Debian suite whose busybox source is taken")
    p.add_argument("--keyring", help="keyring for that mirror, where apt's own trust does not cover the suite")
    p.add_argument("--bundle", help="also write all images into one archive with shared layers")
    p.add_argument("--without", action="append", default=[], choices=["sample-apiserver", "etcd"], help="an image to leave out")
    p.add_argument("--sources-only", action="store_true", help="only fetch and build what needs no --bin, into --out")
    args = p.parse_args()
    b = Builder(args)
    if args.sources_only:
        b.sources()
        return
    if not args.bin or not args.k8s:
        p.error("--bin and --k8s are needed, unless with --sources-only")
    b.make()
    for name in sorted(b.built):
        image = b.built[name]
        b.archive(os.path.join(args.out, name.replace("/", "_").replace(":", "_") + ".tar"), [name])
        print(f"{name}\t{image['packed'] / 1e6:.1f} MB packed\t{image['unpacked'] / 1e6:.1f} MB unpacked")
    if args.bundle:
        b.archive(args.bundle, sorted(b.built))


if __name__ == "__main__":
    main()
