//! SELinux labels of containers and of what is mounted for them.
//!
//! Owns how a label is put together: the node's default for containers, changed by what the client asks for, with a level
//! that keeps pods apart. Whether the node has SELinux, and the setting of labels, are the caller's.

use std::collections::BTreeSet;
use std::fmt;

use crate::types::security::SelinuxLabel;
use crate::types::{Error, Result};

/// Categories that the usual policies know.
const CATEGORIES: u64 = 1024;

/// What containers get unless told otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    process: Label,
    file: Label,
    shared: Label,
}

/// `user:role:type:level`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Label {
    user: String,
    role: String,
    kind: String,
    level: String,
}

/// The labels of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Of its processes.
    pub process: String,
    /// Of its files.
    pub mount: String,
}

impl Default for Contexts {
    /// What container-selinux, which all distributions use, has in its file.
    fn default() -> Self {
        let label = |role: &str, kind: &str| Label {
            user: "system_u".into(),
            role: role.into(),
            kind: kind.into(),
            level: "s0".into(),
        };
        Self {
            process: label("system_r", "container_t"),
            file: label("object_r", "container_file_t"),
            shared: label("object_r", "container_ro_file_t"),
        }
    }
}

impl Contexts {
    /// Reads the policy's `lxc_contexts`: lines such as `process = "system_u:system_r:container_t:s0"`. What it lacks is
    /// as by default.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let label = Label::parse(value.trim().trim_matches('"'));
            match (key.trim(), label) {
                ("process", Some(label)) => found.process = label,
                ("file", Some(label)) => found.file = label,
                ("ro_file", Some(label)) => found.shared = label,
                _ => {}
            }
        }
        found
    }
}

impl Contexts {
    /// Of files that all containers may read and none may write: the layers of images.
    pub fn shared(&self) -> String {
        self.shared.to_string()
    }
}

impl Label {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        Some(Self {
            user: parts.next()?,
            role: parts.next()?,
            kind: parts.next()?,
            level: parts.next()?,
        })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.user, self.role, self.kind, self.level)
    }
}

/// Mount options with the label of all files, if there is one. The quotes keep its commas together.
pub fn mount_options(options: &str, label: &str) -> String {
    match (options, label) {
        (options, "") => options.to_owned(),
        ("", label) => format!("context=\"{label}\""),
        (options, label) => format!("{options},context=\"{label}\""),
    }
}

/// The labels of a container whose pod has `level`.
///
/// # Errors
/// `InvalidArgument` for a wish that is no part of a label.
pub fn labels(contexts: &Contexts, wish: Option<&SelinuxLabel>, level: &str) -> Result<Labels> {
    let (mut process, mut file) = (contexts.process.clone(), contexts.file.clone());
    level.clone_into(&mut process.level);
    if let Some(wish) = wish {
        for (part, value, into) in [
            ("user", &wish.user, &mut process.user),
            ("role", &wish.role, &mut process.role),
            ("type", &wish.kind, &mut process.kind),
            ("level", &wish.level, &mut process.level),
        ] {
            if value.is_empty() {
                continue;
            }
            check(part, value)?;
            value.clone_into(into);
        }
    }
    process.level.clone_into(&mut file.level);
    Ok(Labels {
        process: process.to_string(),
        mount: file.to_string(),
    })
}

fn check(part: &str, value: &str) -> Result<()> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let fine = match part {
        "level" => is_level(value),
        _ => value.bytes().all(word),
    };
    match fine {
        true => Ok(()),
        false => Err(Error::invalid(format!("selinux_options: {value:?} is no {part}"))),
    }
}

/// Such as `s0`, `s0:c1,c2`, `s0-s15:c0.c1023`.
fn is_level(text: &str) -> bool {
    let number = |text: &str, letter: char| {
        let digits = text.strip_prefix(letter).unwrap_or_default();
        (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let one = |level: &str| match level.split_once(':') {
        None => number(level, 's'),
        Some((sensitivity, categories)) => {
            number(sensitivity, 's')
                && categories
                    .split(',')
                    .all(|range| range.splitn(2, '.').all(|category| number(category, 'c')))
        }
    };
    text.splitn(2, '-').all(one)
}

/// A level that no other pod has, found from `seed` on. With all of half a million in use, one that others have.
pub fn level(seed: u64, taken: &BTreeSet<String>) -> String {
    let pairs = CATEGORIES * (CATEGORIES - 1) / 2;
    let nth = |n: u64| {
        // The nth pair (low, high) with low < high, by the high one.
        let (mut high, mut rest) = (1, n % pairs);
        while rest >= high {
            rest -= high;
            high += 1;
        }
        format!("s0:c{rest},c{high}")
    };
    let start = seed % pairs;
    let mut tries = (start..start + pairs.min(taken.len() as u64 + 1)).map(nth);
    tries
        .find(|level| !taken.contains(level))
        .unwrap_or_else(|| nth(start))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_policys_contexts_are_read() {
        let text =
            "process = \"u:r:my_t:s0\"\ncontent = \"x:y:z:s0\"\nfile=\"u:object_r:my_file_t:s0\"\nnonsense\n";
        let contexts = Contexts::parse(text);
        assert_eq!(contexts.process.to_string(), "u:r:my_t:s0");
        assert_eq!(contexts.file.to_string(), "u:object_r:my_file_t:s0");
        assert_eq!(Contexts::parse("process = \"broken\"\n"), Contexts::default());
    }

    #[test]
    fn wishes_change_the_default_and_files_follow_the_level() {
        let with = |wish: SelinuxLabel| labels(&Contexts::default(), Some(&wish), "s0:c1,c2");
        let plain = labels(&Contexts::default(), None, "s0:c1,c2").unwrap();
        assert_eq!(plain.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(plain.mount, "system_u:object_r:container_file_t:s0:c1,c2");
        let changed = with(SelinuxLabel {
            kind: "spc_t".into(),
            level: "s0:c7,c8".into(),
            ..Default::default()
        })
        .unwrap();
        assert_eq!(changed.process, "system_u:system_r:spc_t:s0:c7,c8");
        assert_eq!(changed.mount, "system_u:object_r:container_file_t:s0:c7,c8");
        for level in [
            "s0",
            "s0-s0",
            "s0:c0.c3",
            "s0:c0,c3.c6",
            "s0-s15:c0.c1023",
            "s0:c1-s2:c1,c2",
        ] {
            assert!(is_level(level), "{level}");
        }
        for (kind, level) in [
            ("bad type", ""),
            ("a:b", ""),
            ("", "c1"),
            ("", "s0:c1;c2"),
            ("", "s0,c4,c5"),
            ("", "s0:"),
            ("", "s0:c1,"),
            ("", "s0:c0.c1.c2"),
            ("", "s0-"),
            ("", "s0-s1-s2"),
            ("", "s00000"),
        ] {
            let wish = SelinuxLabel {
                kind: kind.into(),
                level: level.into(),
                ..Default::default()
            };
            assert!(with(wish).is_err(), "{kind:?} {level:?}");
        }
    }

    #[test]
    fn a_label_is_one_mount_option() {
        assert_eq!(
            mount_options("mode=755", "l:s0:c1,c2"),
            "mode=755,context=\"l:s0:c1,c2\""
        );
        assert_eq!(mount_options("", "l"), "context=\"l\"");
        assert_eq!(mount_options("mode=755", ""), "mode=755");
    }

    #[test]
    fn levels_are_pairs_that_nobody_has() {
        let mut taken = BTreeSet::new();
        for seed in [0, 0, 0, u64::MAX, u64::MAX, 523_775, 523_776] {
            let level = level(seed, &taken);
            let (low, high) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
            let (low, high): (u32, u32) = (low.parse().unwrap(), high.parse().unwrap());
            assert!(low < high && high < 1024, "{level}");
            assert!(taken.insert(level));
        }
    }
}
