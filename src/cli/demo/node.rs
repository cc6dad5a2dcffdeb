//! What the demo could leave behind on a node. Everything that its daemon makes bears the demo's name, so that whatever
//! else happens on the node meanwhile does not count.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How deep cgroups are looked for; the demo's own parent is at the top.
const CGROUP_DEPTH: usize = 6;

/// The node as it is now.
pub struct Node {
    mounts: BTreeSet<String>,
    netns: BTreeSet<String>,
    links: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Node {
    /// Looks at everything that the demo called `name` could leave.
    pub fn look(name: &str) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // The numbers of a mount change with what comes and goes; its place and source do not.
        let mounts = mountinfo
            .lines()
            .filter(|l| l.contains(name))
            .map(|l| l.split(' ').skip(2).collect::<Vec<_>>().join(" "))
            .collect();
        let mut cgroups = BTreeSet::new();
        find_cgroups(Path::new("/sys/fs/cgroup"), name, CGROUP_DEPTH, &mut cgroups);
        Self {
            mounts,
            netns: namespaces("net", &processes(name)),
            links: links(name),
            cgroups,
            processes: processes(name),
            files: names("/tmp").into_iter().filter(|n| n.contains(name)).collect(),
        }
    }

    /// What is here and was not there before.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.sets()
            .into_iter()
            .zip(before.sets())
            .flat_map(|((kind, now), (_, then))| {
                now.difference(then).map(move |item| format!("{kind}: {item}"))
            })
            .collect()
    }

    /// How many there are of each kind.
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        self.sets()
            .into_iter()
            .map(|(kind, set)| (kind, set.len()))
            .collect()
    }

    fn sets(&self) -> [(&'static str, &BTreeSet<String>); 6] {
        [
            ("mounts of husk", &self.mounts),
            ("network namespaces of husk", &self.netns),
            ("network interfaces of husk", &self.links),
            ("cgroups of husk", &self.cgroups),
            ("processes of husk", &self.processes),
            ("files of husk", &self.files),
        ]
    }
}

fn names(dir: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Namespaces that these processes are in, by their number, but for this program's own.
fn namespaces(kind: &str, processes: &BTreeSet<String>) -> BTreeSet<String> {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let own = of("self");
    let all = processes
        .iter()
        .filter_map(|pid| of(pid))
        .filter(|ns| Some(ns) != own.as_ref());
    all.map(|ns| ns.display().to_string()).collect()
}

/// The demo's bridge and what is plugged into it.
fn links(name: &str) -> BTreeSet<String> {
    let bridge = bridge(name);
    let master = |link: &str| fs::read_link(format!("/sys/class/net/{link}/master")).ok();
    let plugged = |link: &str| master(link).is_some_and(|m| m.ends_with(&bridge));
    names("/sys/class/net")
        .into_iter()
        .filter(|link| *link == bridge || plugged(link))
        .collect()
}

/// Name of the bridge of the demo called `name`; an interface's has 15 bytes at most.
pub fn bridge(name: &str) -> String {
    format!("hd{}", name.rsplit('-').next().unwrap_or(name))
}

fn find_cgroups(dir: &Path, name: &str, depth: usize, found: &mut BTreeSet<String>) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if path.display().to_string().contains(name) {
                found.insert(path.display().to_string());
            }
            find_cgroups(&path, name, depth - 1, found);
        }
    }
}

/// Processes but this one that name the demo in their command line or run in one of its cgroups.
fn processes(name: &str) -> BTreeSet<String> {
    let own = std::process::id().to_string();
    names("/proc")
        .into_iter()
        .filter(|n| n.bytes().all(|b| b.is_ascii_digit()) && *n != own)
        .filter(|pid| {
            ["cmdline", "cgroup"].iter().any(|file| {
                fs::read(format!("/proc/{pid}/{file}"))
                    .is_ok_and(|text| String::from_utf8_lossy(&text).contains(name))
            })
        })
        .collect()
}
