//! Rules on the text of a file: a module header, and calls that are banned because a seam exists for them.

use super::source::Source;

/// A banned text, where it is allowed all the same, and what to use instead.
struct Ban {
    text: &'static str,
    allowed_in: &'static [&'static str],
    instead: &'static str,
}

const BANS: &[Ban] = &[
    Ban { text: "todo!(", allowed_in: &[], instead: "build it, or answer with a clear error" },
    Ban { text: "unimplemented!(", allowed_in: &[], instead: "build it, or answer with a clear error" },
    Ban { text: "dbg!(", allowed_in: &[], instead: "tracing" },
    Ban { text: "println!(", allowed_in: &["crates/rusternetes/", "xtask/"], instead: "tracing; only the binary prints" },
    Ban { text: "process::exit(", allowed_in: &["crates/rusternetes/", "crates/container-runtime/src/"], instead: "an error" },
    Ban { text: "thread::sleep(", allowed_in: &["crates/container-runtime/src/"], instead: "a condition with a deadline" },
    Ban { text: "allow(dead_code)", allowed_in: &[], instead: "delete the code" },
    Ban { text: "allow(clippy::all)", allowed_in: &["crates/cri/src/lib.rs"], instead: "one lint with a reason" },
];

/// Programs of the host that the product never runs: it must work on a machine that has none of them.
const PROGRAMS: [&str; 6] = ["nft", "iptables", "ip", "mount", "umount", "runc"];

/// Checks each file.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    sources.iter().flat_map(check_one).collect()
}

fn check_one(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    if !source.text.starts_with("//!") && !source.is_test {
        findings.push(format!("{}: begins without a `//!` header that says what it owns", source.path));
    }
    if source.is_test || source.path.ends_with("/build.rs") || source.path == "xtask/src/tidy/text.rs" {
        return findings;
    }
    for (index, line) in source.text.lines().enumerate().take(source.code_lines) {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for ban in BANS {
            if line.contains(ban.text) && !ban.allowed_in.iter().any(|prefix| source.path.starts_with(prefix)) {
                findings.push(format!("{}:{}: `{}`: use {}", source.path, index + 1, ban.text, ban.instead));
            }
        }
        for program in PROGRAMS {
            // The repository's own tools install what they need.
            if !source.path.starts_with("xtask/") && line.contains(&format!("Command::new(\"{program}\")")) {
                findings.push(format!("{}:{}: runs `{program}`, which a bare machine lacks", source.path, index + 1));
            }
        }
    }
    findings
}
