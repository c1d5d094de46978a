//! containerd and runc from Debian as a peer, in a directory of its own; nothing of the host's containerd is touched.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::daemons::Daemons;
use crate::{archive, peers};

/// The image of sandboxes.
pub(crate) const PAUSE_IMAGE: &str = "localhost/bench-pause:1";
/// The executable in it, as `/proc/PID/exe` shows it.
pub(crate) const PAUSE: &str = "/bin/bench-pause";
/// Where Debian has CNI plugins; `bridge` elsewhere is another program.
const PLUGINS: &str = "/usr/lib/cni";
/// The bridge of its pods.
const BRIDGE: &str = "bench-cni0";
/// The network of its pods.
pub(crate) const POD_NETWORK: &str = "10.88.0.0/16";
/// How long a start may take before the run fails.
const START_MAX: Duration = Duration::from_secs(30);

/// Where a containerd keeps everything.
pub(crate) struct Containerd {
    directory: PathBuf,
    executable: PathBuf,
}

impl Containerd {
    /// Writes its configuration into a directory.
    pub(crate) fn new(directory: &Path) -> anyhow::Result<Self> {
        peers::of_debian("runc", "runc")?;
        let executable = peers::of_debian("containerd", "containerd")?;
        ensure!(
            Path::new(PLUGINS).join("bridge").exists(),
            "the peer needs {PLUGINS}/bridge (Debian: apt-get install containernetworking-plugins)"
        );
        let directory = directory.join("containerd");
        std::fs::create_dir_all(directory.join("cni"))?;
        let path = |name: &str| directory.join(name).display().to_string();
        let cni = serde_json::json!({
            "cniVersion": "1.0.0", "name": "bench",
            "plugins": [{"type": "bridge", "bridge": BRIDGE, "isGateway": true,
                "ipam": {"type": "host-local", "dataDir": path("ipam"), "ranges": [[{"subnet": POD_NETWORK}]], "routes": [{"dst": "0.0.0.0/0"}]}}],
        });
        std::fs::write(directory.join("cni/bench.conflist"), cni.to_string())?;
        let config = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Root of a virtual machine may not be allowed to lower the score.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{cni}"
"#,
            root = path("root"),
            state = path("state"),
            socket = path("containerd.sock"),
            opt = path("opt"),
            cni = path("cni"),
        );
        std::fs::write(directory.join("config.toml"), config)?;
        Ok(Self { directory, executable })
    }

    /// Its socket, for CRI.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// Its executables.
    pub(crate) fn executables(&self) -> anyhow::Result<Vec<PathBuf>> {
        let shim = peers::of_debian("containerd-shim-runc-v2", "containerd")?;
        Ok(vec![self.executable.clone(), shim, peers::of_debian("runc", "runc")?])
    }

    /// Starts the daemon; [`Self::wait`] waits for it.
    pub(crate) fn start(&self, daemons: &mut Daemons) -> anyhow::Result<()> {
        let mut command = Command::new(&self.executable);
        command.arg("--config").arg(self.directory.join("config.toml")).arg("--log-level=warn");
        daemons.start("containerd", command)
    }

    /// Waits until it answers.
    pub(crate) async fn wait(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while tokio::net::UnixStream::connect(self.socket()).await.is_err() {
            ensure!(started.elapsed() < START_MAX, "containerd does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Loads the sandboxes' image; the daemon must run.
    pub(crate) fn import_pause(&self) -> anyhow::Result<()> {
        let archive = self.directory.join("pause.tar");
        pause_archive(&archive)?;
        self.load(&archive)
    }

    /// Loads an image with our executable; the daemon must run.
    pub(crate) fn import(&self, image: &str, executable: &Path) -> anyhow::Result<()> {
        let archive = self.directory.join("image.tar");
        archive::write(&archive, image, &[("/bin/rusternetes", executable)], &["/bin/rusternetes"])?;
        self.load(&archive)?;
        std::fs::remove_file(&archive).context("the archive was written")
    }

    fn load(&self, archive: &Path) -> anyhow::Result<()> {
        let output = Command::new(peers::of_debian("ctr", "containerd")?)
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(archive)
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "ctr images import: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Best effort throughout: a benchmark that failed must still leave the machine as it was.
        for pid in processes_with(&self.socket()) {
            // The shim's containers end with the processes of their cgroups, which are found by the shim's children.
            for child in children(pid) {
                kill(child);
            }
            kill(pid);
        }
        unmount_below(&self.directory);
        let _ = Command::new("ip").args(["link", "delete", BRIDGE]).stderr(Stdio::null()).status();
    }
}

/// Detaches all mounts below a directory, as far as that goes.
pub(crate) fn unmount_below(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split_whitespace().nth(4));
    let mut places: Vec<&str> = places.filter(|place| Path::new(place).starts_with(directory)).collect();
    places.reverse();
    for place in places {
        // What cannot be detached is seen by whoever removes the directory.
        let _ = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Writes an archive with the image of sandboxes.
pub(crate) fn pause_archive(archive: &Path) -> anyhow::Result<()> {
    archive::write(archive, PAUSE_IMAGE, &[(PAUSE, &pause()?)], &[PAUSE])
}

/// The executable that holds sandboxes, built by gcc into the peers' cache.
pub(crate) fn pause() -> anyhow::Result<PathBuf> {
    let executable = peers::cache()?.join("pause");
    if !executable.exists() {
        let status = Command::new("gcc")
            .args(["-Os", "-static", "-s", "-o"])
            .arg(&executable)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/pause.c"))
            .status()
            .context("the peer's pause image needs gcc, which is not installed (Debian: gcc)")?;
        ensure!(status.success(), "gcc ended with {status}");
    }
    Ok(executable)
}

/// Processes whose command line names the path.
fn processes_with(path: &Path) -> Vec<i32> {
    let wanted = path.as_os_str().as_encoded_bytes();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            command.split(|byte| *byte == 0).any(|argument| argument == wanted).then_some(pid)
        })
        .collect()
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn kill(pid: i32) {
    // It may have ended already.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}
