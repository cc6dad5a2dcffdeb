//! Who a container's process is: user, groups and home from the request and the image's account files.
//!
//! The rules are those of containerd and runc:
//! * A user by number need not exist; without an entry its group is 0. A user by name must exist.
//! * `run_as_username` wins over `run_as_user`, both win over the image's `USER`, which then does not count at all.
//! * `uid:gid` with both as numbers asks no file.
//! * The primary group is always among the additional ones, so that dropping to a group cannot shed a restriction
//!   that rests on membership.
//!
//! Pure: the caller reads the files, inside the root file system.

use crate::types::security::GroupsPolicy;
use crate::types::{Error, Result};

/// Longest account file that is looked at, in bytes.
pub const MAX_FILE: usize = 4 << 20;

/// Largest id a request may name; runc takes no larger one either.
const MAX_ID: i64 = i32::MAX as i64;

/// Most groups the kernel gives a process.
const MAX_GROUPS: usize = 65_536;

/// What decides about the identity.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The image's name, for messages.
    pub image: &'a str,
    /// `USER` of the image's configuration: `user` or `user:group`, each a name or a number. Empty means root.
    pub image_user: &'a str,
    /// Numeric user asked for.
    pub run_as_user: Option<i64>,
    /// User asked for by name. Empty means none.
    pub run_as_username: &'a str,
    /// Numeric group asked for; needs a user.
    pub run_as_group: Option<i64>,
    /// Further groups asked for.
    pub supplemental_groups: &'a [i64],
    /// Whether the image's `/etc/group` adds groups.
    pub policy: GroupsPolicy,
}

/// Who the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups without repeats, the primary one first.
    pub additional_gids: Vec<u32>,
    /// Home directory; `/` for a user without one.
    pub home: String,
    /// Name in `/etc/passwd`, if it has the user.
    pub username: Option<String>,
}

/// Resolves `request` with the contents of the image's `/etc/passwd` and `/etc/group`, empty where a file is missing.
///
/// # Errors
/// `InvalidArgument`: a name without an entry, a group without a user, an id out of range, a file beyond
/// [`MAX_FILE`], more groups than a process can have.
pub fn resolve(request: &Request<'_>, passwd: &[u8], group: &[u8]) -> Result<Identity> {
    check_size("passwd", passwd, request)?;
    check_size("group", group, request)?;
    let (user, primary) = wanted(request)?;
    let account = Account::find(&user, passwd);
    let (uid, default_gid) = match (&user, &account) {
        (_, Some(account)) => (account.uid, account.gid),
        (Id::Number(uid), None) => (*uid, 0),
        (Id::Name(name), None) => return Err(unknown("user", name, "passwd", request)),
    };
    let gid = match primary {
        // As `docker run --user 0:0`: both are given, no file has a say.
        Some(Id::Number(gid)) => gid,
        Some(Id::Name(name)) => {
            group_id(&name, group).ok_or_else(|| unknown("group", &name, "group", request))?
        }
        None => default_gid,
    };
    Ok(Identity {
        uid,
        gid,
        additional_gids: additional(request, gid, account.as_ref(), group)?,
        home: account
            .as_ref()
            .filter(|a| !a.home.is_empty())
            .map_or_else(|| "/".to_owned(), |a| a.home.to_owned()),
        username: account.map(|a| a.name.to_owned()),
    })
}

/// A user or group as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Id {
    Number(u32),
    Name(String),
}

impl Id {
    /// Digits are a number, also where an account has such a name.
    fn parse(text: &str, whole: &str) -> Result<Self> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        // Too many digits for an i64 are out of range as well.
        number("user or group id", text.parse().unwrap_or(i64::MAX))
            .map(Self::Number)
            .map_err(|e| e.context(format!("user {}", shown(whole))))
    }
}

fn number(what: &str, id: i64) -> Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|_| id <= MAX_ID)
        .ok_or_else(|| Error::invalid(format!("{what} {id} is out of range 0 to {MAX_ID}")))
}

/// The user and the group asked for; `None` leaves the group to the user's entry.
fn wanted(request: &Request<'_>) -> Result<(Id, Option<Id>)> {
    let group = request
        .run_as_group
        .map(|gid| number("run_as_group", gid).map(Id::Number))
        .transpose()?;
    if !request.run_as_username.is_empty() {
        let (user, own_group) = split(request.run_as_username)?;
        return Ok((user, group.or(own_group)));
    }
    if let Some(uid) = request.run_as_user {
        return Ok((Id::Number(number("run_as_user", uid)?), group));
    }
    if let Some(Id::Number(gid)) = group {
        return Err(Error::invalid(format!(
            "run_as_group {gid} is given without a user: set run_as_user or run_as_username as well"
        )));
    }
    split(request.image_user)
}

/// `user`, `user:group`, `:group` or nothing. Without a user it is root.
fn split(text: &str) -> Result<(Id, Option<Id>)> {
    let mut parts = text.splitn(3, ':');
    let (user, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if parts.next().is_some() {
        return Err(Error::invalid(format!(
            "user {} has more than one colon, expected user or user:group",
            shown(text)
        )));
    }
    let parse = |part: &str| match part {
        "" => Ok(None),
        part => Id::parse(part, text).map(Some),
    };
    Ok((parse(user)?.unwrap_or(Id::Number(0)), parse(group)?))
}

/// The primary group, the image's groups if the policy says so, those asked for; each once.
fn additional(
    request: &Request<'_>,
    gid: u32,
    account: Option<&Account<'_>>,
    group: &[u8],
) -> Result<Vec<u32>> {
    let mut gids = vec![gid];
    if let (GroupsPolicy::Merge, Some(account)) = (request.policy, account) {
        gids.extend(memberships(account.name, group));
    }
    for gid in request.supplemental_groups {
        gids.push(number("supplemental group", *gid)?);
    }
    let mut seen = std::collections::HashSet::new();
    gids.retain(|gid| seen.insert(*gid));
    if gids.len() > MAX_GROUPS {
        return Err(Error::invalid(format!(
            "{} additional groups, at most {MAX_GROUPS}",
            gids.len()
        )));
    }
    Ok(gids)
}

/// A line of `/etc/passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    /// The first one that fits, as everywhere else.
    fn find(id: &Id, passwd: &'a [u8]) -> Option<Self> {
        lines(passwd).filter_map(Self::parse).find(|account| match id {
            Id::Number(uid) => account.uid == *uid,
            Id::Name(name) => account.name == name,
        })
    }

    /// `name:password:uid:gid:comment:home:shell`. What has no name or no ids is no account: taking a missing id for
    /// 0 would make a typing error root.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name, uid, gid, home })
    }
}

/// `name:password:gid:member,member`.
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

fn group_id(name: &str, group: &[u8]) -> Option<u32> {
    let mut groups = lines(group).filter_map(parse_group);
    groups.find(|(n, ..)| *n == name).map(|(_, gid, _)| gid)
}

/// The groups that list `user`, but for its own of the same name.
fn memberships(user: &str, group: &[u8]) -> impl Iterator<Item = u32> {
    lines(group)
        .filter_map(parse_group)
        .filter(move |(name, _, members)| *name != user && members.split(',').any(|m| m.trim() == user))
        .map(|(_, gid, _)| gid)
}

/// Lines that can be entries: UTF-8, no comments. NIS entries (`+name`, `-name`) ask a service that is not there.
fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|b| *b == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', '+', '-']))
}

fn check_size(file: &str, bytes: &[u8], request: &Request<'_>) -> Result<()> {
    if bytes.len() <= MAX_FILE {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "/etc/{file} of image {} has more than {MAX_FILE} bytes",
        request.image
    )))
}

fn unknown(what: &str, name: &str, file: &str, request: &Request<'_>) -> Error {
    Error::invalid(format!(
        "no {what}s found: {what} {} is not in /etc/{file} of image {}",
        shown(name),
        request.image
    ))
}

/// For messages: quoted and not endless.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests;
