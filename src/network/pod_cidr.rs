//! The pod ranges that the cluster gave this node, and the CNI configuration made of them where there is a template.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::cni::conf::{self, NetworkList};
use super::cni::template;
use super::{Cidr, Network, blocking};
use crate::types::error::Context;
use crate::types::{Error, Result};

/// The file that is made. Another that comes before or after it is somebody's decision, and stays the only one.
const FILE: &str = "10-husk.conflist";
/// Largest template.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// Reads ranges as kubelet sends them: one, or one for each address family with a comma between.
///
/// # Errors
/// `InvalidArgument`, naming what is no range.
pub fn parse(text: &str) -> Result<Vec<Cidr>> {
    let parts = text.split(',').map(str::trim);
    parts
        .map(|part| {
            part.parse::<Cidr>()
                .map_err(|e| Error::invalid(format!("pod CIDR {text:?}: {part:?} is no address range: {e}")))
        })
        .collect()
}

impl Network {
    /// Makes the CNI configuration for these ranges from the configured template. Does nothing without one, or where
    /// there is a configuration that husk did not make. Returns the file that was written.
    ///
    /// # Errors
    /// The template cannot be read or used; the file cannot be written.
    pub async fn use_pod_ranges(&self, ranges: Vec<Cidr>) -> Result<Option<PathBuf>> {
        let Some(template) = self.inner.config.cni_conf_template.clone() else {
            return Ok(None);
        };
        let dir = self.inner.config.cni_conf_dir.clone();
        let written = blocking(move || write(&template, &dir, &ranges)).await?;
        if written.is_some() {
            let inner = std::sync::Arc::clone(&self.inner);
            blocking(move || {
                drop(inner.conf.refreshed());
                Ok(())
            })
            .await?;
        }
        Ok(written)
    }
}

fn write(template: &Path, dir: &Path, ranges: &[Cidr]) -> Result<Option<PathBuf>> {
    let what = || format!("CNI configuration template {}", template.display());
    let size = fs::metadata(template).with_context(what)?.len();
    if size > MAX_TEMPLATE_BYTES {
        return Err(Error::precondition(format!(
            "{}: {size} bytes are too many",
            what()
        )));
    }
    let text = fs::read_to_string(template).with_context(what)?;
    let unusable = |problem: String| Error::precondition(format!("{}: {problem}", what()));
    let filled = template::render(&text, ranges).map_err(unusable)?;
    let file = dir.join(FILE);
    let value = serde_json::from_str(&filled)
        .map_err(|e| unusable(format!("filled in, it is not valid JSON: {e}: {filled:?}")))?;
    NetworkList::from_value(&file, value).map_err(unusable)?;
    if conf::others(dir, &file).map_err(Error::internal)? {
        tracing::info!(dir = %dir.display(), "there is a CNI configuration that husk did not make; leaving it alone");
        return Ok(None);
    }
    if fs::read_to_string(&file).is_ok_and(|present| present == filled) {
        return Ok(None);
    }
    replace(&file, &filled)?;
    Ok(Some(file))
}

/// Whole or not at all: it may be read at any moment.
fn replace(file: &Path, text: &str) -> Result<()> {
    let what = || format!("write {}", file.display());
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(what)?;
    }
    // An ending that no reader of configurations looks at.
    let fresh = file.with_extension("new");
    let mut out = fs::File::create(&fresh).with_context(what)?;
    out.write_all(text.as_bytes()).with_context(what)?;
    out.sync_all().with_context(what)?;
    fs::rename(&fresh, file).with_context(what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TEMPLATE: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","ipam":{"type":"host-local","subnet":"{{.PodCIDR}}"}}]}"#;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new(template: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("template"), template).unwrap();
            Self(dir)
        }

        fn write(&self, ranges: &str) -> Result<Option<PathBuf>> {
            let dir = self.0.path();
            write(&dir.join("template"), &dir.join("net.d"), &parse(ranges).unwrap())
        }

        fn text(&self) -> String {
            fs::read_to_string(self.0.path().join("net.d").join(FILE)).unwrap()
        }
    }

    #[test]
    fn ranges_are_read_as_kubelet_sends_them() {
        let read = |text| parse(text).map(|r| r.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(read("10.0.0.0/24").unwrap(), ["10.0.0.0/24"]);
        assert_eq!(
            read("10.0.0.0/24, fd00::/64").unwrap(),
            ["10.0.0.0/24", "fd00::/64"]
        );
        for text in ["", "10.0.0.0", "10.0.0.0/24,", "nonsense/8"] {
            assert_eq!(
                read(text).unwrap_err().kind(),
                crate::types::Kind::InvalidArgument
            );
        }
    }

    #[test]
    fn the_file_follows_the_range_and_is_written_when_it_changes() {
        let place = Place::new(TEMPLATE);
        assert!(place.write("10.1.0.0/24").unwrap().is_some());
        assert!(place.text().contains("10.1.0.0/24"));
        assert!(place.write("10.1.0.0/24").unwrap().is_none());
        assert!(place.write("10.2.0.0/24").unwrap().is_some());
        assert!(place.text().contains("10.2.0.0/24"));
        assert_eq!(fs::read_dir(place.0.path().join("net.d")).unwrap().count(), 1);
    }

    #[test]
    fn somebody_elses_configuration_stays_the_only_one() {
        let place = Place::new(TEMPLATE);
        let dir = place.0.path().join("net.d");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("50-theirs.conf"), "{}").unwrap();
        assert!(place.write("10.1.0.0/24").unwrap().is_none());
        assert!(!dir.join(FILE).exists());
    }

    #[test]
    fn a_template_that_gives_no_configuration_is_refused_by_name() {
        for template in ["{{.Nope}}", "{", r#"{"cniVersion":"1.0.0","name":"n"}"#] {
            let place = Place::new(template);
            let error = place.write("10.1.0.0/24").unwrap_err();
            assert!(error.message().contains("/template"), "{error}");
            assert!(!place.0.path().join("net.d").join(FILE).exists());
        }
    }
}
