//! Files of variables that a container has left in a volume (KEP-3721): `NAME='value'` a line, with nothing but single quotes.

use std::io::Read;
use std::path::Path;

use crate::volume::subpath;

/// Longest file that is read; upstream has no limit but for its lines.
const BYTES_MAX: u64 = 4 << 20;
/// Longest line (Go's `bufio.MaxScanTokenSize`).
const LINE_BYTES_MAX: usize = 64 << 10;

/// The value of a variable in a file of a volume; empty if the file does not have it. Links lead nowhere but into the volume.
pub(super) fn read(volume: &Path, path: &str, key: &str) -> Result<String, String> {
    let mut text = String::new();
    let file =
        subpath::open(volume, path).map_err(|error| format!("failed to open environment variable file {path:?}: {error}"))?;
    let read = file.take(BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| format!("error reading environment variable file {path:?}: {error}"))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(format!("environment variable file {path:?} is longer than {BYTES_MAX} bytes"));
    }
    parse(&text, key)
}

/// Upstream's `ParseEnv`, which reads no further than to the variable.
fn parse(text: &str, key: &str) -> Result<String, String> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        let wrong = |what: &str| Err(format!("invalid environment variable format at line {number}: {what}"));
        if line.len() >= LINE_BYTES_MAX {
            return Err("error reading environment variable file: bufio.Scanner: token too long".to_owned());
        }
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { return wrong("missing '='") };
        match name.trim_end_matches([' ', '\t']) {
            "" => return wrong("empty variable name"),
            trimmed if trimmed != name => return wrong("whitespace before '=' is not allowed"),
            _ => {}
        }
        if value.starts_with([' ', '\t']) {
            // As a shell has it: the variable is empty, and the rest is none of it.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(mut rest) = value.strip_prefix('\'') else { return wrong("value must be enclosed in single quotes") };
        let mut whole = String::new();
        let after = loop {
            if let Some((inside, after)) = rest.split_once('\'') {
                whole.push_str(inside);
                break after.trim_start_matches([' ', '\t']);
            }
            whole.push_str(rest);
            whole.push('\n');
            let Some((_, next)) = lines.next() else {
                return Err(format!("invalid environment variable format starting at line {number}: unclosed single quote"));
            };
            rest = next;
        };
        if !after.is_empty() && !after.starts_with('#') {
            return wrong("unexpected content after closing quote");
        }
        if name == key {
            return Ok(whole);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_single_quotes() {
        let text = "# a comment\n\n  A='one two' # more\nB='first\nsecond'\nEMPTY= 'no'\nC='$A \\n'\nC='again'\r\n";
        for (key, expected) in [("A", "one two"), ("B", "first\nsecond"), ("EMPTY", ""), ("C", "$A \\n"), ("NONE", ""), ("a", "")]
        {
            assert_eq!(parse(text, key).as_deref(), Ok(expected), "{key}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let format = "invalid environment variable format";
        for (text, expected) in [
            ("A", format!("{format} at line 1: missing '='")),
            ("\n='x'", format!("{format} at line 2: empty variable name")),
            ("A ='x'", format!("{format} at line 1: whitespace before '=' is not allowed")),
            ("A=x", format!("{format} at line 1: value must be enclosed in single quotes")),
            ("A=\"x\"", format!("{format} at line 1: value must be enclosed in single quotes")),
            ("A='x' y", format!("{format} at line 1: unexpected content after closing quote")),
            ("#\nA='x\ny", format!("{format} starting at line 2: unclosed single quote")),
        ] {
            assert_eq!(parse(text, "B"), Err(expected), "{text:?}");
        }
        assert_eq!(parse("B='x'\nA", "B").as_deref(), Ok("x"), "what follows is not read");
    }

    #[test]
    fn files_are_looked_for_in_the_volume() {
        let directory = std::env::temp_dir().join(format!("kubelet-env-file-{}", std::process::id()));
        let volume = directory.join("volume");
        std::fs::create_dir_all(volume.join("d")).unwrap();
        std::fs::write(volume.join("d/env"), "A='1'\n").unwrap();
        std::fs::write(directory.join("secret"), "A='2'\n").unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("/d/env", volume.join("in")).unwrap();
        assert_eq!(read(&volume, "d/env", "A").as_deref(), Ok("1"));
        assert_eq!(read(&volume, "in", "A").as_deref(), Ok("1"), "the volume is the root of links");
        for outside in ["out", "../secret", "none"] {
            assert!(read(&volume, outside, "A").unwrap_err().starts_with("failed to open"), "{outside}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
