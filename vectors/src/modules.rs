//! Where upstream's data is: the Go module cache, at the versions of `conformance/go.mod`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The Go module cache.
pub(crate) struct Modules {
    cache: PathBuf,
    versions: BTreeMap<String, String>,
}

impl Modules {
    /// The cache of whoever runs us, with the versions that the conformance module asks for.
    pub(crate) fn find() -> Result<Modules> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/go.mod");
        let text = std::fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
        Ok(Modules { cache: cache(), versions: versions(&text) })
    }

    /// The version of a module.
    pub(crate) fn version(&self, module: &str) -> Result<&str> {
        self.versions.get(module).map(String::as_str).with_context(|| format!("conformance/go.mod does not name {module}"))
    }

    /// The directory of a module; an error that says how to get it when it is not there.
    pub(crate) fn directory(&self, module: &str) -> Result<PathBuf> {
        let version = self.version(module)?;
        let path = self.cache.join(format!("{module}@{version}"));
        if !path.is_dir() {
            bail!("Go module {module}@{version} is not in {}: run `go mod download` in conformance/", self.cache.display());
        }
        Ok(path)
    }
}

fn cache() -> PathBuf {
    if let Some(cache) = std::env::var_os("GOMODCACHE") {
        return cache.into();
    }
    let path = std::env::var_os("GOPATH").map(PathBuf::from);
    path.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap_or_default()).join("go")).join("pkg/mod")
}

/// `MODULE VERSION` lines, of `require` blocks or alone.
fn versions(manifest: &str) -> BTreeMap<String, String> {
    let lines = manifest.lines().map(|line| line.trim().trim_start_matches("require "));
    let pairs = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let (module, version) = (words.next()?, words.next()?);
        (module.contains('/') && version.starts_with('v')).then(|| (module.to_owned(), version.to_owned()))
    });
    pairs.collect()
}

/// The files of a directory with an extension, by name without it.
pub(crate) fn files(directory: &Path, extension: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if let Some(name) =
            path.file_name().and_then(|name| name.to_str()?.strip_suffix(&format!(".{extension}")).map(str::to_owned))
        {
            found.push((name, path));
        }
    }
    found.sort();
    Ok(found)
}

/// A file's bytes; the error names it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let found = versions("module x\n\ngo 1.25\n\nrequire k8s.io/api v0.35.4\nrequire (\n\ta.io/b v1.0.0 // indirect\n)\n");
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("a.io/b".to_owned(), "v1.0.0".to_owned()), ("k8s.io/api".to_owned(), "v0.35.4".to_owned())]
        );
    }
}
