//! Profiles from files: OCI's `LinuxSeccomp` and the richer format of Docker and containers-common, in one reader.
//!
//! The richer format has rules that count only on some machines, with some capabilities or from some kernel on
//! (`includes`, `excludes`) and lists architectures by machine (`archMap`). What remains of it for one container is
//! OCI's format. The caller reads the file.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde_json::Value;

use super::arch::Abi;
use super::errno;
use super::json::Field;
use crate::types::{CapSet, Capability, Error, Result};

/// Longest profile in bytes. The largest known ones have 30 KiB.
pub const MAX_BYTES: usize = 1 << 20;

/// What conditional rules are about.
#[derive(Debug, Clone, Copy)]
pub struct Environment {
    /// The machine's own ABI.
    pub native: Abi,
    /// The container's bounding set.
    pub caps: CapSet,
    /// Version of the running kernel, such as `(6, 18)`.
    pub kernel: (u32, u32),
}

/// Reads the profile `json`; `source` is its file name for messages.
///
/// # Errors
/// `InvalidArgument` with file and field if it is no profile or longer than [`MAX_BYTES`].
pub fn parse(source: &str, json: &[u8], environment: &Environment) -> Result<LinuxSeccomp> {
    let fail = |why: String| Error::invalid(format!("seccomp profile {source}: {why}"));
    if json.len() > MAX_BYTES {
        return Err(fail(format!("{} bytes, at most {MAX_BYTES}", json.len())));
    }
    let value: Value = serde_json::from_slice(json).map_err(|e| fail(format!("not JSON: {e}")))?;
    read(&Field::root(&value), environment).map_err(fail)
}

/// Errors inside name the field; [`parse`] puts the file in front.
type Parsed<T> = std::result::Result<T, String>;

fn read(root: &Field<'_>, environment: &Environment) -> Parsed<LinuxSeccomp> {
    root.object()?;
    let mut profile = LinuxSeccomp::default();
    let action = root.get("defaultAction").ok_or("defaultAction is missing")?;
    profile
        .set_default_action(read_action(&action)?)
        .set_default_errno_ret(read_errno(root, "defaultErrnoRet", "defaultErrno")?)
        .set_architectures(read_architectures(root, environment)?)
        .set_syscalls(Some(read_syscalls(root, environment)?));
    if let Some(flags) = root.get("flags") {
        let flags = flags.list()?.iter().map(read_flag).collect::<Parsed<_>>()?;
        profile.set_flags(Some(flags));
    }
    if let Some(path) = root.get("listenerPath") {
        let path = path.text()?;
        profile.set_listener_path((!path.is_empty()).then(|| path.into()));
    }
    if let Some(metadata) = root.get("listenerMetadata") {
        profile.set_listener_metadata(Some(metadata.text()?.to_owned()));
    }
    Ok(profile)
}

fn read_architectures(root: &Field<'_>, environment: &Environment) -> Parsed<Option<Vec<Arch>>> {
    let architectures = root.list_at("architectures")?;
    let map = root.list_at("archMap")?;
    if !architectures.is_empty() && !map.is_empty() {
        return Err("has both architectures and archMap, expected one of them".to_owned());
    }
    if !architectures.is_empty() {
        return architectures
            .iter()
            .map(read_arch)
            .collect::<Parsed<_>>()
            .map(Some);
    }
    for entry in map {
        let architecture = entry
            .get("architecture")
            .ok_or_else(|| entry.problem("architecture is missing"))?;
        if read_arch(&architecture)? != environment.native.to_oci() {
            continue;
        }
        let mut all = vec![environment.native.to_oci()];
        for sub in entry.list_at("subArchitectures")? {
            all.push(read_arch(&sub)?);
        }
        return Ok(Some(all));
    }
    Ok(None)
}

fn read_syscalls(root: &Field<'_>, environment: &Environment) -> Parsed<Vec<LinuxSyscall>> {
    let mut syscalls = Vec::new();
    for rule in root.list_at("syscalls")? {
        rule.object()?;
        let syscall = read_syscall(&rule)?;
        if counts(&rule, environment)? {
            syscalls.push(syscall);
        }
    }
    Ok(syscalls)
}

fn read_syscall(rule: &Field<'_>) -> Parsed<LinuxSyscall> {
    let action = rule
        .get("action")
        .ok_or_else(|| rule.problem("action is missing"))?;
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(read_names(rule)?)
        .set_action(read_action(&action)?)
        .set_errno_ret(read_errno(rule, "errnoRet", "errno")?);
    let args = rule.list_at("args")?;
    if !args.is_empty() {
        syscall.set_args(Some(args.iter().map(read_arg).collect::<Parsed<_>>()?));
    }
    Ok(syscall)
}

/// `names`, or `name` as the first version of Docker's format had it.
fn read_names(rule: &Field<'_>) -> Parsed<Vec<String>> {
    let mut names = rule.list_at("names")?;
    match (rule.get("name"), names.is_empty()) {
        (Some(_), false) => return Err(rule.problem("has both name and names, expected one of them")),
        (Some(name), true) => names.push(name),
        (None, true) if rule.get("names").is_none() => return Err(rule.problem("names is missing")),
        (None, _) => {}
    }
    let name = |field: &Field<'_>| match field.text()? {
        "" => Err(field.problem("is empty, expected the name of a system call")),
        name => Ok(name.to_owned()),
    };
    names.iter().map(name).collect()
}

fn read_arg(arg: &Field<'_>) -> Parsed<LinuxSeccompArg> {
    arg.object()?;
    let number = |key| arg.get(key).map_or(Ok(0), |f| f.number(u64::MAX));
    let op = arg.get("op").ok_or_else(|| arg.problem("op is missing"))?;
    let index = arg
        .get("index")
        .ok_or_else(|| arg.problem("index is missing"))?
        .number(5)?;
    let builder = LinuxSeccompArgBuilder::default()
        .index(usize::try_from(index).unwrap_or_default())
        .value(number("value")?)
        .op(op.one_of::<LinuxSeccompOperator>("an operator such as SCMP_CMP_EQ")?);
    let builder = match arg.get("valueTwo") {
        Some(two) => builder.value_two(two.number(u64::MAX)?),
        None => builder,
    };
    builder.build().map_err(|e| arg.problem(&e.to_string()))
}

fn read_action(field: &Field<'_>) -> Parsed<LinuxSeccompAction> {
    field.one_of("an action such as SCMP_ACT_ALLOW")
}

fn read_arch(field: &Field<'_>) -> Parsed<Arch> {
    field.one_of("an architecture such as SCMP_ARCH_X86_64")
}

fn read_flag(field: &Field<'_>) -> Parsed<LinuxSeccompFilterFlag> {
    field.one_of("a flag such as SECCOMP_FILTER_FLAG_LOG")
}

/// The error number, from `number_key` or by name from `name_key`.
fn read_errno(parent: &Field<'_>, number_key: &str, name_key: &str) -> Parsed<Option<u32>> {
    if let Some(number) = parent.get(number_key) {
        let number = number.number(4095)?;
        return Ok(u32::try_from(number).ok());
    }
    let Some(field) = parent.get(name_key) else {
        return Ok(None);
    };
    match field.text()? {
        "" => Ok(None),
        name => match errno::by_name(name) {
            Some(number) => Ok(Some(number)),
            None => Err(field.problem(&format!(
                "{name:?} is no error name known here; give the number as {number_key}"
            ))),
        },
    }
}

/// Whether a rule counts for this container.
fn counts(rule: &Field<'_>, environment: &Environment) -> Parsed<bool> {
    if let Some(includes) = rule.get("includes") {
        let terms = Terms::read(&includes, environment)?;
        if terms.arch == Some(false) || terms.kernel == Some(false) || terms.caps.contains(&false) {
            return Ok(false);
        }
    }
    if let Some(excludes) = rule.get("excludes") {
        let terms = Terms::read(&excludes, environment)?;
        if terms.arch == Some(true) || terms.kernel == Some(true) || terms.caps.contains(&true) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is true of the conditions in `includes` or `excludes`; `None` for those not given.
struct Terms {
    arch: Option<bool>,
    kernel: Option<bool>,
    caps: Vec<bool>,
}

impl Terms {
    fn read(field: &Field<'_>, environment: &Environment) -> Parsed<Self> {
        field.object()?;
        let arches = field.list_at("arches")?;
        let arches = arches.iter().map(Field::text).collect::<Parsed<Vec<_>>>()?;
        let caps = field.list_at("caps")?;
        // A capability of the future is one that the container does not have.
        let held = |name: &str| Capability::parse(name).is_ok_and(|c| environment.caps.contains(c));
        Ok(Self {
            arch: (!arches.is_empty()).then(|| arches.contains(&environment.native.go_name())),
            kernel: match field.get("minKernel") {
                Some(version) => Some(environment.kernel >= read_version(&version)?),
                None => None,
            },
            caps: caps.iter().map(|c| c.text().map(held)).collect::<Parsed<_>>()?,
        })
    }
}

fn read_version(field: &Field<'_>) -> Parsed<(u32, u32)> {
    let text = field.text()?;
    let version = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.ok_or_else(|| field.problem(&format!("{text:?} is no kernel version such as 4.8")))
}

#[cfg(test)]
mod tests;
