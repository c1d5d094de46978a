//! The static token file (`--token-auth-file`): a CSV with token, user name, uid and optionally a quoted list of groups
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#static-token-file>). For test rigs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::user::UserInfo;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("{path}:{line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The tokens of a file, read once at start.
#[derive(Debug, Default)]
pub struct TokenFile {
    users: HashMap<String, UserInfo>,
}

impl TokenFile {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, TokenFileError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokenFileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, reason)| TokenFileError::Line { path: path.to_owned(), line, reason })
    }

    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = split_csv(line).ok_or((number, "a quote is not closed"))?;
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err((number, "token file must have at least 3 columns (token, user name, user uid)"));
            };
            if token.is_empty() {
                return Err((number, "the token is empty"));
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let mut user = UserInfo::authenticated(name.as_str(), groups.split(',').map(str::trim).filter(|g| !g.is_empty()));
            user.uid.clone_from(uid);
            users.insert(token.clone(), user);
        }
        Ok(Self { users })
    }

    /// Whose token this is.
    pub fn authenticate(&self, token: &str) -> Option<&UserInfo> {
        self.users.get(token)
    }
}

/// RFC 4180 fields of one line; a quote may stand inside a quoted field twice.
fn split_csv(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    fields.push(field.trim().to_owned());
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file() {
        let file = TokenFile::parse("# tokens\nt1,bob,u1,\"dev,ops\"\n\nt2,eve,u2\n").expect("parses");
        let bob = file.authenticate("t1").expect("known");
        assert_eq!((bob.name.as_str(), bob.uid.as_str()), ("bob", "u1"));
        assert_eq!(bob.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(file.authenticate("t2").expect("known").groups, ["system:authenticated"]);
        assert!(file.authenticate("t3").is_none());
        for (text, line) in [("a,b", 1), ("t,u,i\n,x,y", 2), ("t,\"u,i", 1)] {
            assert_eq!(TokenFile::parse(text).expect_err(text).0, line);
        }
    }
}
