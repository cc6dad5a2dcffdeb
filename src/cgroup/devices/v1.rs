//! Version 1: rules are written to `devices.allow` and `devices.deny`, one per write.

use std::fmt;
use std::io::Write;
use std::path::Path;

use crate::types::Result;
use crate::types::error::Context;

use super::super::file;
use super::{Exception, Filter, Kind, access, number};

/// The file a rule goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Allow,
    Deny,
}

/// Makes `dir` enforce `wanted`, in as few writes as its present rules permit. Adds to `notes` where the parent's rules
/// bound a cgroup that should be open.
///
/// # Errors
/// A rule that the kernel refuses, most often because the parent cgroup lacks the device.
pub(crate) fn apply(dir: &Path, wanted: &Filter, notes: &mut Vec<String>) -> Result<()> {
    let list =
        file::read(dir, "devices.list").with_context(|| format!("read device rules of {}", dir.display()))?;
    let present = parse(&list);
    if wanted.is_open() {
        if !present.is_open() && file::write(dir, "devices.allow", "a").is_err() {
            notes.push(format!(
                "all devices were asked for; the parent of {} has not all",
                dir.display()
            ));
        }
        return Ok(());
    }
    // Opened once for all writes to it.
    let (mut allow, mut deny) = (None, None);
    for (order, rule) in transition(&present, wanted) {
        let (name, slot) = match order {
            Order::Allow => ("devices.allow", &mut allow),
            Order::Deny => ("devices.deny", &mut deny),
        };
        let file = match slot {
            Some(file) => Ok(file),
            None => file::open(dir, name).map(|f| slot.insert(f)),
        };
        match file.and_then(|f| f.write_all(rule.to_string().as_bytes())) {
            Err(e) if e.raw_os_error() == Some(libc::EPERM) && rule.is_default() => {
                notes.push(format!(
                    "device {rule}: the parent of {} does not have it",
                    dir.display()
                ));
            }
            Err(e) => return Err(file::refused(dir, name, &rule.to_string(), &e)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// What is written: a rule, or the word that changes the default and drops all exceptions.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    All,
    Some(Exception),
}

impl Rule {
    /// Nobody asked for it by name, so that husk in a container can do without what its own cgroup lacks.
    fn is_default(&self) -> bool {
        matches!(self, Self::Some(e) if Filter::of(&[]).is_ok_and(|f| f.exceptions.contains(e)))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("a"),
            Self::Some(e) => e.fmt(f),
        }
    }
}

/// The writes that lead from one filter to another. What both allow stays allowed all the time, if the default is the
/// same; a change of the default starts over.
fn transition(present: &Filter, wanted: &Filter) -> Vec<(Order, Rule)> {
    let (except, restore) = if wanted.allow_by_default {
        (Order::Deny, Order::Allow)
    } else {
        (Order::Allow, Order::Deny)
    };
    // Open by default, the kernel does not list the exceptions, so they cannot be compared.
    if present.allow_by_default || wanted.allow_by_default {
        let all = wanted.exceptions.iter().map(|e| (except, Rule::Some(e.clone())));
        return std::iter::once((restore, Rule::All)).chain(all).collect();
    }
    let added = difference(&wanted.exceptions, &present.exceptions);
    let removed = difference(&present.exceptions, &wanted.exceptions);
    let added = added.map(|e| (except, Rule::Some(e)));
    added.chain(removed.map(|e| (restore, Rule::Some(e)))).collect()
}

/// What `of` has and `minus` has not.
fn difference<'a>(of: &'a [Exception], minus: &'a [Exception]) -> impl Iterator<Item = Exception> + 'a {
    of.iter().filter_map(|e| {
        let had = minus.iter().find(|m| m.same_nodes(e)).map_or(0, |m| m.access);
        let access = e.access & !had;
        (access != 0).then(|| Exception { access, ..e.clone() })
    })
}

/// Reads `devices.list`. A line that cannot be read is left out, so that it is written again.
fn parse(list: &str) -> Filter {
    let mut filter = Filter {
        allow_by_default: false,
        exceptions: Vec::new(),
    };
    for line in list.lines() {
        if line.starts_with('a') {
            return Filter::open();
        }
        filter.exceptions.extend(parse_line(line));
    }
    filter
}

fn parse_line(line: &str) -> Option<Exception> {
    let mut words = line.split([' ', ':']);
    let kind = match words.next()? {
        "c" => Kind::Char,
        "b" => Kind::Block,
        _ => return None,
    };
    let mut node = || match words.next()? {
        "*" => Some(None),
        n => number(Some(n.parse().ok()?)),
    };
    let (major, minor) = (node()?, node()?);
    Some(Exception {
        kind,
        major,
        minor,
        access: access(words.next()?.trim())?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn filter(list: &str) -> Filter {
        parse(list)
    }

    fn written(present: &str, wanted: &str) -> Vec<String> {
        transition(&filter(present), &filter(wanted))
            .into_iter()
            .map(|(o, r)| format!("{o:?} {r}"))
            .collect()
    }

    #[test]
    fn lists_are_read_as_they_are_written() {
        let list = "c *:* m\nb 8:* rw\nc 1:3 rwm\n";
        let text: String = filter(list).exceptions.iter().map(|e| format!("{e}\n")).collect();
        assert_eq!(text, list);
        assert!(filter("a *:* rwm\n").is_open());
    }

    #[test]
    fn a_fresh_cgroup_is_closed_once_then_opened() {
        assert_eq!(
            written("a *:* rwm\n", "c *:* m\nc 1:3 rwm\n"),
            ["Deny a", "Allow c *:* m", "Allow c 1:3 rwm"]
        );
    }

    #[test]
    fn only_the_difference_is_written_and_additions_come_first() {
        assert_eq!(
            written("c 1:3 rwm\nc 1:5 rw\nb 8:0 r\n", "c 1:3 rwm\nc 1:5 r\nc 5:0 rw\n"),
            ["Allow c 5:0 rw", "Deny c 1:5 w", "Deny b 8:0 r"]
        );
        assert!(written("c 1:3 rwm\n", "c 1:3 rwm\n").is_empty());
    }

    #[test]
    fn exceptions_from_open_are_denials() {
        let wanted = Filter {
            allow_by_default: true,
            ..filter("b 8:0 rwm\n")
        };
        let writes = transition(&filter("c 1:3 rwm\n"), &wanted);
        let writes: Vec<_> = writes.iter().map(|(o, r)| format!("{o:?} {r}")).collect();
        assert_eq!(writes, ["Allow a", "Deny b 8:0 rwm"]);
    }
}
