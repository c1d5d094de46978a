//! Who a container runs as: names and groups out of the image's own `/etc/passwd` and `/etc/group`.

use std::io::Read;
use std::path::Path;

use cri::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use super::records::UserRecord;
use crate::images::open_file_in_root;

/// Longest file that is read.
const FILE_MAX: u64 = 1024 * 1024;

/// Resolves the user of a container whose root file system is at `rootfs`.
pub(crate) fn resolve(rootfs: &Path, context: &LinuxContainerSecurityContext, image_user: &str) -> Result<UserRecord, String> {
    let database = Database { passwd: read(rootfs, "etc/passwd"), group: read(rootfs, "etc/group") };
    database.resolve(context, image_user)
}

fn read(rootfs: &Path, path: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = open_file_in_root(rootfs, Path::new(path)) {
        let _ = file.take(FILE_MAX).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

struct Database {
    passwd: String,
    group: String,
}

impl Database {
    fn resolve(&self, context: &LinuxContainerSecurityContext, image_user: &str) -> Result<UserRecord, String> {
        let (name, image_group) = match (&context.run_as_user, context.run_as_username.as_str()) {
            (Some(user), _) => (user.value.to_string(), None),
            (None, "") => match image_user.split_once(':') {
                Some((user, group)) => (user.to_owned(), Some(group.to_owned())),
                None => (image_user.to_owned(), None),
            },
            (None, username) => {
                let group = image_user.split_once(':').filter(|(user, _)| *user == username).map(|(_, group)| group.to_owned());
                (username.to_owned(), group)
            }
        };
        let name = if name.is_empty() { "0".to_owned() } else { name };
        let known = self.user(&name);
        let uid = match &known {
            Some(user) => user.uid,
            None => name.parse().map_err(|_| format!("unable to find user {name}: no matching entries in passwd file"))?,
        };
        let gid = match (&context.run_as_group, image_group.filter(|group| !group.is_empty())) {
            (Some(group), _) => u32::try_from(group.value).map_err(|_| format!("group {} out of range", group.value))?,
            (None, Some(group)) => {
                self.group(&group).ok_or_else(|| format!("unable to find group {group}: no matching entries in group file"))?
            }
            (None, None) => known.as_ref().map_or(0, |user| user.gid),
        };
        let mut groups = vec![gid];
        if context.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge
            && let Some(user) = &known
        {
            groups.extend(self.groups_of(&user.name));
        }
        groups.extend(context.supplemental_groups.iter().filter_map(|group| u32::try_from(*group).ok()));
        let mut seen = std::collections::HashSet::new();
        groups.retain(|group| seen.insert(*group));
        Ok(UserRecord { uid, gid, groups })
    }

    /// A line of passwd, by name or by number.
    fn user(&self, name: &str) -> Option<User> {
        let number: Option<u32> = name.parse().ok();
        self.passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [entry, _, uid, gid, ..] = fields.as_slice() else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            let matches = *entry == name || number == Some(uid);
            matches.then(|| User { name: (*entry).to_owned(), uid, gid })
        })
    }

    fn group(&self, name: &str) -> Option<u32> {
        let by_name = self.group.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [entry, _, gid, ..] = fields.as_slice() else { return None };
            if *entry == name { gid.parse().ok() } else { None }
        });
        by_name.or_else(|| name.parse().ok())
    }

    fn groups_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        self.group.lines().filter_map(move |line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members] = fields.as_slice() else { return None };
            if members.split(',').any(|member| member == name) { gid.parse().ok() } else { None }
        })
    }
}

struct User {
    name: String,
    uid: u32,
    gid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::v1::Int64Value;

    fn check(context: LinuxContainerSecurityContext, image_user: &str, expected: Result<(u32, u32, &[u32]), &str>) {
        let database = Database {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/:\n".to_owned(),
            group: "root:x:0:\nweb:x:1001:\ndocker:x:50:web,other\nvideo:x:44:other\n".to_owned(),
        };
        let found = database.resolve(&context, image_user);
        let expected = expected.map_err(str::to_owned).map(|(uid, gid, groups)| UserRecord { uid, gid, groups: groups.to_vec() });
        assert_eq!(found, expected, "{context:?} {image_user}");
    }

    #[test]
    fn users_and_groups() {
        let context = LinuxContainerSecurityContext::default;
        let number = |value| Some(Int64Value { value });
        check(context(), "", Ok((0, 0, &[0])));
        check(context(), "web", Ok((1000, 1001, &[1001, 50])));
        check(context(), "1000", Ok((1000, 1001, &[1001, 50])));
        check(context(), "web:video", Ok((1000, 44, &[44, 50])));
        check(context(), "4000:4001", Ok((4000, 4001, &[4001])));
        check(context(), "ghost", Err("unable to find user ghost: no matching entries in passwd file"));
        check(LinuxContainerSecurityContext { run_as_user: number(1000), ..context() }, "root", Ok((1000, 1001, &[1001, 50])));
        check(LinuxContainerSecurityContext { run_as_user: number(7), ..context() }, "web", Ok((7, 0, &[0])));
        let strict = LinuxContainerSecurityContext {
            run_as_user: number(1000),
            run_as_group: number(3000),
            supplemental_groups: vec![2000, 3000],
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
            ..context()
        };
        check(strict.clone(), "", Ok((1000, 3000, &[3000, 2000])));
        let merged = LinuxContainerSecurityContext { supplemental_groups_policy: 0, ..strict };
        check(merged, "", Ok((1000, 3000, &[3000, 50, 2000])));
        check(
            LinuxContainerSecurityContext { run_as_username: "web".to_owned(), ..context() },
            "web:video",
            Ok((1000, 44, &[44, 50])),
        );
    }
}
