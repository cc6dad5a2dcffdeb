//! `/etc/passwd` and `/etc/group` of an image, and who the container's process is by them.

use husk::spec::identity::{self, Request};
use husk::types::security::GroupsPolicy;

use crate::Said;

pub(super) const WORDS: &[&str] = &[
    "root",
    "nobody",
    ":",
    "::",
    "x:0:0:",
    "4294967295",
    "2147483648",
    "-1",
    "+",
    "-",
    "#",
    "\n",
    ",",
    "\u{0}",
];

fn resolve_parts(user: &[u8], passwd: &[u8], group: &[u8]) -> Said {
    let user = String::from_utf8_lossy(user);
    let as_image = Request {
        image: "example",
        image_user: &user,
        policy: GroupsPolicy::Merge,
        ..Default::default()
    };
    let by_name = Request {
        image_user: "",
        run_as_username: &user,
        supplemental_groups: &[0, 5, 5],
        ..as_image
    };
    let said: Vec<Said> = [as_image, by_name]
        .iter()
        .map(|request| match identity::resolve(request, passwd, group) {
            Ok(found) => {
                assert!(found.additional_gids.contains(&found.gid), "{found:?}");
                format!("home {} name {}", found.home.len(), found.username.is_some())
            }
            Err(e) => e.to_string(),
        })
        .collect();
    said.join("; ")
}

/// Input: the user asked for, passwd and group, with a `%` between them.
pub(super) fn resolve(data: &[u8]) -> Said {
    let mut parts = data.splitn(3, |b| *b == b'%');
    let mut next = || parts.next().unwrap_or_default();
    resolve_parts(next(), next(), next())
}
