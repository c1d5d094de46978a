//! Names of images, normalised as Docker does.
//! <https://github.com/distribution/reference>

use std::fmt;

use super::ImageError;

/// A fully qualified image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

impl Reference {
    /// Parses a name; `busybox` is `docker.io/library/busybox:latest`.
    pub(crate) fn parse(text: &str) -> Result<Self, ImageError> {
        let invalid = || ImageError::InvalidName(text.to_owned());
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(invalid());
        }
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid());
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        if !is_registry(registry) || !repository.split('/').all(is_path_component) {
            return Err(invalid());
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned())),
            digest: digest.map(str::to_owned),
        })
    }

    /// Registry and repository.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `NAME:TAG`, if there is a tag.
    pub(crate) fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `NAME@DIGEST` for a digest of the registry.
    pub(crate) fn with_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(formatter, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Whether the text is `sha256:` and 64 hexadecimal digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_tag(tag: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !tag.is_empty() && tag.len() <= 128 && tag.bytes().all(valid) && !tag.starts_with(['.', '-'])
}

fn is_registry(host: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    host.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[') && host.bytes().all(valid)
}

fn is_path_component(component: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-');
    !component.is_empty()
        && component.bytes().all(valid)
        && !component.starts_with(['.', '-', '_'])
        && !component.ends_with(['.', '-', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let check = |text: &str, expected: &str| assert_eq!(Reference::parse(text).expect(text).to_string(), expected);
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36");
        check("grafana/loki", "docker.io/grafana/loki:latest");
        check("index.docker.io/library/x", "docker.io/library/x:latest");
        check("localhost/rusternetes:0.1.0", "localhost/rusternetes:0.1.0");
        check("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c");
        check("localhost:5000/a", "localhost:5000/a:latest");
        check(&format!("quay.io/a@{digest}"), &format!("quay.io/a@{digest}"));
        check(&format!("quay.io/a:1@{digest}"), &format!("quay.io/a:1@{digest}"));
        for text in ["", "Busybox", "a:", "a:b:c", "a//b", "quay.io/", "a@sha256:12", "a b", "../x", "quay.io/../x"] {
            assert!(Reference::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
