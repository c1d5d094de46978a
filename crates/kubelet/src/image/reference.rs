//! Image names (<https://pkg.go.dev/github.com/distribution/reference>): what is valid, and the default tag.

/// The name with `:latest` where it has neither tag nor digest. The error is distribution's.
pub(crate) fn with_default_tag(image: &str) -> Result<String, String> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let (repository, tag) = match name[slash..].rfind(':') {
        Some(colon) => (&name[..slash + colon], Some(&name[slash + colon + 1..])),
        None => (name, None),
    };
    let invalid = || format!("couldn't parse image name \"{image}\": invalid reference format");
    if repository.chars().any(|c| c.is_ascii_uppercase()) && repository_path(repository).chars().any(|c| c.is_ascii_uppercase()) {
        return Err(format!("{}: repository name ({}) must be lowercase", invalid(), repository_path(repository)));
    }
    let tag_valid = |tag: &str| {
        !tag.is_empty()
            && tag.len() <= 128
            && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    };
    let digest_valid = |digest: &str| {
        digest.split_once(':').is_some_and(|(algorithm, value)| {
            !algorithm.is_empty() && value.len() >= 32 && value.chars().all(|c| c.is_ascii_hexdigit())
        })
    };
    if !repository_valid(repository) || tag.is_some_and(|t| !tag_valid(t)) || digest.is_some_and(|d| !digest_valid(d)) {
        return Err(invalid());
    }
    if tag.is_none() && digest.is_none() { Ok(format!("{image}:latest")) } else { Ok(image.to_owned()) }
}

fn is_host(first: &str) -> bool {
    first.contains('.') || first.contains(':') || first == "localhost"
}

/// The part behind the registry's host.
fn repository_path(repository: &str) -> &str {
    match repository.split_once('/') {
        Some((first, rest)) if is_host(first) => rest,
        _ => repository,
    }
}

fn repository_valid(repository: &str) -> bool {
    let path = repository_path(repository);
    let component = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
            && !part.contains("..")
    };
    let host = &repository[..repository.len() - path.len()];
    let host_valid =
        host.trim_end_matches('/').chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
    host_valid && !path.is_empty() && path.len() <= 255 && path.split('/').all(component)
}

/// An image's registry and path as Docker's configuration files name them: `index.docker.io/library/nginx`, `host:5000/a/b`.
pub(crate) fn registry_and_path(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let repository = name[slash..].rfind(':').map_or(name, |colon| &name[..slash + colon]);
    match repository.split_once('/') {
        Some((first, _)) if is_host(first) => {
            let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
            let host = if host == "docker.io" { "index.docker.io" } else { host };
            format!("{host}/{path}")
        }
        Some(_) => format!("index.docker.io/{repository}"),
        None => format!("index.docker.io/library/{repository}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_tags_and_errors() {
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        for (image, expected) in [
            ("nginx", Some("nginx:latest")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            ("quay.io/x/y:v1.2_3", Some("quay.io/x/y:v1.2_3")),
            (digest.as_str(), Some(digest.as_str())),
            ("Nginx", None),
            ("a/b:", None),
            ("a b", None),
            ("", None),
            ("a/../b", None),
            ("a@sha256:12", None),
        ] {
            assert_eq!(with_default_tag(image).ok().as_deref(), expected, "{image}");
        }
    }

    #[test]
    fn registries() {
        for (image, expected) in [
            ("nginx:1", "index.docker.io/library/nginx"),
            ("a/b", "index.docker.io/a/b"),
            ("docker.io/a/b:1", "index.docker.io/a/b"),
            ("host:5000/a:1", "host:5000/a"),
            ("localhost/a", "localhost/a"),
        ] {
            assert_eq!(registry_and_path(image), expected);
        }
    }
}
