//! The kernel's controllers, by the names the kernel gives them.

use std::path::Path;

/// A resource controller, or the freezer, which is one in version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    Devices,
    Freezer,
    Blkio,
    Pids,
    Hugetlb,
    NetCls,
    NetPrio,
    Rdma,
    Misc,
    PerfEvent,
}

use Controller::*;

const ALL: [Controller; 14] = [
    Cpu, Cpuacct, Cpuset, Memory, Devices, Freezer, Blkio, Pids, Hugetlb, NetCls, NetPrio, Rdma, Misc,
    PerfEvent,
];

impl Controller {
    /// The name in mount options and file names of version 1.
    pub(super) fn name(self) -> &'static str {
        match self {
            Cpu => "cpu",
            Cpuacct => "cpuacct",
            Cpuset => "cpuset",
            Memory => "memory",
            Devices => "devices",
            Freezer => "freezer",
            Blkio => "blkio",
            Pids => "pids",
            Hugetlb => "hugetlb",
            NetCls => "net_cls",
            NetPrio => "net_prio",
            Rdma => "rdma",
            Misc => "misc",
            PerfEvent => "perf_event",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        ALL.into_iter().find(|c| c.name() == name)
    }
}

/// A set of controllers: those of one version 1 hierarchy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Set(u16);

impl Set {
    pub(super) fn contains(self, controller: Controller) -> bool {
        self.0 & (1 << controller as u16) != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The known controllers among comma-separated names.
    pub(super) fn parse(names: &str) -> Self {
        names.split(',').filter_map(Controller::parse).collect()
    }

    /// The controllers of a version 1 cgroup, told by the files in its directory.
    pub(super) fn of_dir(dir: &Path) -> Self {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return Self::default();
        };
        let prefix = |e: std::fs::DirEntry| Controller::parse(e.file_name().to_str()?.split_once('.')?.0);
        entries.flatten().filter_map(prefix).collect()
    }
}

impl FromIterator<Controller> for Set {
    fn from_iter<I: IntoIterator<Item = Controller>>(controllers: I) -> Self {
        Self(controllers.into_iter().fold(0, |bits, c| bits | (1 << c as u16)))
    }
}
