//! The systemd driver: the only place that speaks D-Bus, and only the daemon comes here.
//!
//! The tree belongs to systemd but for units it delegates, so husk asks for one unit per slice (kubelet names a slice per
//! pod) and makes its cgroups below that with mkdir. systemd removes the cgroup of a unit without processes at once, so
//! the unit is a service with one that sleeps: nothing is collected between two containers of a pod or before an exit is
//! attributed. systemd puts no device program on what is delegated, and a `daemon-reload` changes nothing there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::systemd::SystemdClient;
use cgroups_rs::systemd::props::PropertiesBuilder;
use zbus::blocking::{Connection, Proxy};
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};

use crate::types::error::Context;
use crate::types::{Error, Kind, Result};

use super::Version;
use super::file::{read, set};
use super::path::normalise;

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const UNIT_SERVICE: &str = "org.freedesktop.systemd1.Service";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// Where version 2 has the process that sleeps: a cgroup with processes of its own can hand down no controllers.
const PIN: &str = "pin";

/// How long systemd may take to start a unit that sleeps.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Longest unit name systemd takes.
const MAX_UNIT_NAME: usize = 255;

/// Where a cgroup lies, and the unit it lies in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Relative to the mount points.
    pub(super) path: PathBuf,
    /// `None` with another driver.
    pub(super) unit: Option<Unit>,
}

/// The delegated unit of a slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// `husk-kubepods-pod1.service`
    pub(super) name: String,
    /// `kubepods-pod1.slice`
    pub(super) slice: String,
    /// Its cgroup, relative to the mount points.
    pub(super) path: String,
}

/// Checks that there is a systemd to ask.
///
/// # Errors
/// `FailedPrecondition`.
pub(super) fn present() -> Result<()> {
    if Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    Err(Error::precondition(
        "cgroup driver systemd: systemd does not run on this node (no /run/systemd/system): use the cgroupfs driver, for \
         kubelet too",
    ))
}

/// Reads a path: `slice:prefix:name` as OCI bundles have it, a slice with or without its parents and what lies below it,
/// or a plain path, whose first component becomes a slice. A slice alone is that slice's own cgroup.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn place(path: &str) -> Result<Place> {
    let (slice, below) = match path.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] => {
            let slice = if slice.is_empty() { "system.slice" } else { slice };
            let name = if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}-{name}")
            };
            (slice.to_owned(), normalise(&name)?)
        }
        _ => split(path)?,
    };
    let cgroup = expand(&slice)?;
    let stem = slice.trim_end_matches(".slice");
    let name = format!("husk-{}.service", if stem == "-" { "root" } else { stem });
    if name.len() > MAX_UNIT_NAME {
        return Err(Error::invalid(format!(
            "cgroup path {path:?}: the slice name is too long"
        )));
    }
    let unit = cgroup.join(&name);
    let below = below.strip_prefix(&name).unwrap_or(&below);
    let path = if below.as_os_str().is_empty() {
        cgroup
    } else {
        unit.join(below)
    };
    Ok(Place {
        path,
        unit: Some(Unit {
            path: unit.to_string_lossy().into_owned(),
            name,
            slice,
        }),
    })
}

/// The last slice in a path and what lies below it.
fn split(path: &str) -> Result<(String, PathBuf)> {
    let normal = normalise(path)?;
    let parts: Vec<&str> = normal.iter().filter_map(|p| p.to_str()).collect();
    match parts.iter().rposition(|p| p.ends_with(".slice")) {
        Some(at) => Ok((parts[at].to_owned(), parts[at + 1..].iter().collect())),
        None => Ok((format!("{}.slice", parts[0]), parts[1..].iter().collect())),
    }
}

/// The cgroup of a slice: each dash in the name is a level, so `a-b.slice` is `a.slice/a-b.slice`.
///
/// # Errors
/// `InvalidArgument` for what is no slice name.
pub(super) fn expand(slice: &str) -> Result<PathBuf> {
    let bad = |why: &str| Error::invalid(format!("slice {slice:?}: {why}"));
    let stem = slice
        .strip_suffix(".slice")
        .ok_or_else(|| bad("a slice's name ends in .slice"))?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'\\' | b'@');
    if !stem.bytes().all(plain) {
        return Err(bad("contains characters that no unit name may have"));
    }
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    if stem.split('-').any(str::is_empty) {
        return Err(bad("an empty part between dashes"));
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.map(|end| format!("{}.slice", &stem[..end])).collect())
}

/// The path of a container's cgroup: in the delegated unit of the parent's slice.
pub(super) fn container_path(parent: &str, id: &str) -> String {
    match place(&format!("{}/{id}", parent.trim_end_matches('/'))) {
        Ok(place) => format!("/{}", place.path.display()),
        // What is wrong with the parent is said when the cgroup is made.
        Err(_) => format!("{parent}/{id}"),
    }
}

/// The slice of a pod of husk's own.
pub(super) fn pod_slice(parent: &str, id: &str) -> String {
    let last = parent.trim_matches('/').rsplit('/').next().unwrap_or("husk");
    format!("{}-{id}.slice", last.trim_end_matches(".slice"))
}

/// Has the unit started, if it is not there yet: `dirs` are its directories.
///
/// # Errors
/// systemd cannot be asked or refuses.
pub(super) fn ensure(unit: &Unit, dirs: &[PathBuf], version: Version) -> Result<()> {
    let populated = |dir: &Path| !read(dir, "cgroup.procs").unwrap_or_default().is_empty();
    let ready = match version {
        Version::V1 => dirs.iter().any(|d| populated(d)),
        Version::V2 => dirs.iter().all(|d| populated(&d.join(PIN))),
    };
    if ready {
        return Ok(());
    }
    let what = || format!("start unit {}", unit.name);
    let bus = Connection::system().with_context(|| format!("{}: connect to D-Bus", what()))?;
    start(&bus, unit).with_context(what)?;
    wait_active(&bus, unit)?;
    if version == Version::V2 {
        let pid: u32 = property(&bus, &unit.name, UNIT_SERVICE, "MainPID").with_context(what)?;
        dirs.iter()
            .try_for_each(|dir| pin(dir, pid))
            .map_err(|e| e.context(what()))?;
    }
    Ok(())
}

/// Moves the process that sleeps out of the way.
fn pin(dir: &Path, pid: u32) -> Result<()> {
    let pin = dir.join(PIN);
    std::fs::create_dir_all(&pin).with_context(|| format!("create {}", pin.display()))?;
    set(&pin, "cgroup.procs", pid)
}

fn start(bus: &Connection, unit: &Unit) -> zbus::Result<()> {
    let auxiliary: Auxiliary<'_> = Vec::new();
    let manager = Proxy::new(bus, SERVICE, MANAGER_PATH, MANAGER)?;
    let arguments = (unit.name.as_str(), "fail", properties(unit), auxiliary);
    match manager.call_method("StartTransientUnit", &arguments) {
        Err(zbus::Error::MethodError(name, ..)) if name.as_str() == UNIT_EXISTS => Ok(()),
        other => other.map(drop),
    }
}

/// Further units to start along; none.
type Auxiliary<'a> = Vec<(&'a str, Vec<(&'a str, Value<'a>)>)>;

/// In its slice and delegated, besides what is said here.
fn properties(unit: &Unit) -> Vec<(&'static str, Value<'static>)> {
    let mut properties = PropertiesBuilder::default_cgroup(&unit.slice, &unit.name).build();
    properties.extend([
        // Started once it has been executed: before that, systemd may still move it.
        ("Type", Value::from("exec")),
        (
            "ExecStart",
            Value::from(vec![("/bin/sh", vec!["sh", "-c", "exec sleep infinity"], false)]),
        ),
        // Whatever becomes of the unit, the containers are husk's to kill.
        ("KillMode", Value::from("process")),
        ("OOMScoreAdjust", Value::from(-999)),
        // One container's OOM kill is not the end of the pod, and kubelet limits the pod's processes.
        ("OOMPolicy", Value::from("continue")),
        ("TasksMax", Value::from(u64::MAX)),
        ("CollectMode", Value::from("inactive-or-failed")),
    ]);
    properties
}

fn wait_active(bus: &Connection, unit: &Unit) -> Result<()> {
    let what = || format!("wait for unit {}", unit.name);
    let end = Instant::now() + START_PATIENCE;
    loop {
        let state: String = property(bus, &unit.name, UNIT, "ActiveState").with_context(what)?;
        if state == "active" {
            return Ok(());
        }
        if state == "failed" || Instant::now() > end {
            let kind = if state == "failed" {
                Kind::Internal
            } else {
                Kind::DeadlineExceeded
            };
            return Err(Error::new(
                kind,
                format!("{}: it is {state}: see systemctl status {}", what(), unit.name),
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn property<T>(bus: &Connection, unit: &str, interface: &'static str, name: &str) -> zbus::Result<T>
where
    T: TryFrom<OwnedValue>,
    T::Error: Into<zbus::Error>,
{
    let manager = Proxy::new(bus, SERVICE, MANAGER_PATH, MANAGER)?;
    let path: OwnedObjectPath = manager.call("GetUnit", &(unit,))?;
    Proxy::new(bus, SERVICE, path, interface)?.get_property(name)
}

/// Whether a cgroup right below a unit is a container's.
pub(super) fn is_container(dir: &Path) -> bool {
    !dir.ends_with(PIN)
}

/// Has the unit stopped, which removes its cgroup. Fine if there is none.
///
/// # Errors
/// systemd cannot be asked or refuses.
pub(super) fn stop(unit: &Unit) -> Result<()> {
    SystemdClient::new(&unit.name, Vec::new())
        .and_then(|client| client.stop())
        .with_context(|| format!("stop unit {}", unit.name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dashes_are_levels() {
        for (slice, path) in [
            ("a.slice", "a.slice"),
            ("a-b.slice", "a.slice/a-b.slice"),
            (
                "kubepods-burstable-pod1_2.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
            ),
            ("-.slice", ""),
        ] {
            assert_eq!(expand(slice).unwrap(), Path::new(path), "{slice}");
        }
        for slice in [
            "",
            "a",
            ".slice",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            "a/b.slice",
            "ä.slice",
        ] {
            assert!(expand(slice).is_err(), "{slice}");
        }
    }

    #[test]
    fn kubelets_parent_holds_its_containers() {
        let unit = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podX.slice/husk-kubepods-besteffort-podX.service";
        for parent in [
            "kubepods-besteffort-podX.slice",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podX.slice",
        ] {
            let path = container_path(parent, "c1");
            assert_eq!(path, format!("/{unit}/c1"));
            // The path of the container is read back as what it is.
            let place = place(&path).unwrap();
            assert_eq!(place.path, Path::new(unit).join("c1"));
            let found = place.unit.unwrap();
            assert_eq!(
                (found.path.as_str(), found.slice.as_str()),
                (unit, "kubepods-besteffort-podX.slice")
            );
        }
    }

    #[test]
    fn a_slice_alone_is_itself() {
        assert_eq!(
            place("kubepods-podX.slice").unwrap().path,
            Path::new("kubepods.slice/kubepods-podX.slice")
        );
    }

    #[test]
    fn other_forms_lie_in_a_slice_too() {
        assert_eq!(
            place("/husk/supervisors").unwrap().path,
            Path::new("husk.slice/husk-husk.service/supervisors")
        );
        assert_eq!(
            place("system.slice:husk:c1").unwrap().path,
            Path::new("system.slice/husk-system.service/husk-c1")
        );
        assert_eq!(
            place("::c1").unwrap().path,
            Path::new("system.slice/husk-system.service/c1")
        );
        assert_eq!(pod_slice("/husk", "p1"), "husk-p1.slice");
        for bad in ["a:b:../c", "../a", "a.slice/../../b", ""] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    /// systemd refuses a call whose types are off by a letter, and there is none here to say so.
    #[test]
    fn the_call_has_the_types_of_the_interface() {
        use zbus::zvariant::Type;
        type Arguments<'a> = (
            &'a str,
            &'a str,
            Vec<(&'static str, Value<'static>)>,
            Auxiliary<'a>,
        );
        assert_eq!(Arguments::SIGNATURE.to_string(), "(ssa(sv)a(sa(sv)))");

        let unit = place("kubepods-podX.slice/c").unwrap().unit.unwrap();
        let properties = properties(&unit);
        let signature = |name: &str| {
            let found: Vec<_> = properties.iter().filter(|(n, _)| *n == name).collect();
            assert_eq!(found.len(), 1, "{name}");
            found[0].1.value_signature().to_string()
        };
        for (name, wanted) in [
            ("Type", "s"),
            ("KillMode", "s"),
            ("OOMScoreAdjust", "i"),
            ("ExecStart", "a(sasb)"),
            ("OOMPolicy", "s"),
            ("TasksMax", "t"),
            ("CollectMode", "s"),
            ("Delegate", "b"),
            ("Slice", "s"),
            ("DefaultDependencies", "b"),
        ] {
            assert_eq!(signature(name), wanted, "{name}");
        }
        assert!(properties.contains(&("Slice", Value::from("kubepods-podX.slice"))));
    }

    #[test]
    fn absence_is_said() {
        if !Path::new("/run/systemd/system").exists() {
            assert!(present().unwrap_err().message().contains("cgroupfs"));
        }
    }
}
