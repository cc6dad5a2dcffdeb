//! Container Device Interface: vendors say in files what a container needs to use their devices, clients name devices
//! as `vendor.com/class=name`, and the container's spec is edited accordingly.
//!
//! Owns names, the format, which of several files wins, and the edits. The caller reads the files, and looks up device
//! nodes for [`edits::apply`].

pub mod edits;
mod format;
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::types::{Error, Kind, Result};

use format::SpecFile;

pub use format::{ContainerEdits, DeviceNode};

/// Prefix of annotations whose values list devices, separated by commas.
pub const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// A file from one of the directories, in the order of these.
#[derive(Debug)]
pub struct Input {
    /// Where it was.
    pub path: PathBuf,
    /// Position of its directory: what is in a later one wins.
    pub priority: usize,
    /// Its content, or why it could not be read.
    pub content: std::result::Result<Vec<u8>, String>,
}

/// All devices that the files describe.
#[derive(Debug, Default)]
pub struct Registry {
    specs: Vec<SpecFile>,
    devices: BTreeMap<String, Found>,
    problems: Vec<String>,
}

#[derive(Debug)]
enum Found {
    /// Positions of the file and of the device in it.
    At(usize, usize, usize),
    /// Two files of the same directory describe it.
    Twice(usize, [PathBuf; 2]),
}

impl Found {
    fn priority(&self) -> usize {
        match self {
            Self::At(priority, ..) | Self::Twice(priority, _) => *priority,
        }
    }
}

impl Registry {
    /// Reads the files. One that makes no sense hides no other: it is told when a device is not found.
    pub fn read(inputs: Vec<Input>) -> Self {
        let mut registry = Self::default();
        for input in inputs {
            let parsed = match &input.content {
                Ok(bytes) => format::parse(&input.path, bytes),
                Err(why) => Err(why.clone()),
            };
            match parsed {
                Ok(spec) => registry.add(spec, input.priority),
                Err(why) => registry.problems.push(format!("{}: {why}", input.path.display())),
            }
        }
        registry
    }

    fn add(&mut self, spec: SpecFile, priority: usize) {
        let at = self.specs.len();
        for (n, device) in spec.devices.iter().enumerate() {
            let name = format!("{}={}", spec.kind, device.name);
            let found = match self.devices.get(&name) {
                Some(old) if old.priority() > priority => continue,
                Some(Found::At(p, other, _)) if *p == priority => {
                    Found::Twice(priority, [self.specs[*other].path.clone(), spec.path.clone()])
                }
                Some(Found::Twice(p, _)) if *p == priority => continue,
                _ => Found::At(priority, at, n),
            };
            self.devices.insert(name, found);
        }
        self.specs.push(spec);
    }

    /// The edits for these devices: what a file says of all its devices comes once, before the first of them. A container
    /// that has the devices `given` already has what their files say, too.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no name of a device; `NotFound` with the directories and whatever is wrong with
    /// their files if one is not described; `FailedPrecondition` if two files of one directory describe it.
    pub fn resolve(
        &self,
        names: &[String],
        given: &[String],
        dirs: &[PathBuf],
    ) -> Result<Vec<&ContainerEdits>> {
        let mut seen: BTreeSet<usize> = given.iter().filter_map(|name| self.file_of(name)).collect();
        let mut edits = Vec::new();
        for name in names.iter().filter(|name| !given.contains(name)) {
            check_name(name)?;
            let (spec, device) = match self.devices.get(name) {
                Some(Found::At(_, spec, device)) => (*spec, *device),
                Some(Found::Twice(_, [one, two])) => {
                    return Err(Error::precondition(format!(
                        "CDI device {name}: {} and {} both describe it",
                        one.display(),
                        two.display()
                    )));
                }
                None => return Err(self.unknown(name, dirs)),
            };
            let file = &self.specs[spec];
            if seen.insert(spec) {
                edits.push(&file.container_edits);
            }
            edits.push(&file.devices[device].container_edits);
        }
        Ok(edits)
    }

    /// Position of the file that describes a device.
    fn file_of(&self, name: &str) -> Option<usize> {
        match self.devices.get(name) {
            Some(Found::At(_, spec, _)) => Some(*spec),
            _ => None,
        }
    }

    fn unknown(&self, name: &str, dirs: &[PathBuf]) -> Error {
        let dirs: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
        let mut text = format!("CDI device {name}: no file in {} describes it", dirs.join(", "));
        if !self.problems.is_empty() {
            text += &format!("; unusable files: {}", self.problems.join("; "));
        }
        Error::new(Kind::NotFound, text)
    }
}

/// The devices that a container asks for: those of its field, then those of its annotations by their keys, each once.
///
/// # Errors
/// A name that is none.
pub fn wanted<'a>(
    field: &[String],
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let listed = annotations
        .into_iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX))
        .flat_map(|(_, value)| value.split(','))
        .map(str::trim);
    for name in field.iter().map(String::as_str).chain(listed) {
        check_name(name)?;
        if !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Whether a file in one of the directories is to be read.
pub fn is_spec(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json" || e == "yaml")
}

/// Refuses what cannot be the name of a device.
///
/// # Errors
/// `InvalidArgument`, with the form that names have.
pub fn check_name(name: &str) -> Result<()> {
    let parts = name
        .split_once('=')
        .and_then(|(kind, device)| Some((kind.split_once('/')?, device)));
    match parts {
        Some(((vendor, class), device))
            if is_word(vendor, true) && is_word(class, true) && is_word(device, false) =>
        {
            Ok(())
        }
        _ => Err(Error::invalid(format!(
            "CDI device {name:?} is no name: expected vendor.com/class=device"
        ))),
    }
}

/// Vendors and classes begin with a letter, devices with a letter or digit; all end with one of these.
fn is_word(word: &str, letter_first: bool) -> bool {
    let inner =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.') || (!letter_first && b == b':');
    let first = |b: u8| b.is_ascii_alphabetic() || (!letter_first && b.is_ascii_digit());
    match word.as_bytes() {
        [] => false,
        all @ [start, .., end] => {
            first(*start) && end.is_ascii_alphanumeric() && all.iter().all(|b| inner(*b))
        }
        [only] => first(*only),
    }
}
