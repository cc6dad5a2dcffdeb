//! The AppArmor profile of a container.

use std::path::Path;

use tracing::{info, warn};

use crate::pod::launcher::apparmor::load;
use crate::spec::apparmor::{self, Choice, DEFAULT};
use crate::types::ContainerConfig;
use crate::types::error::{Context, Result};

/// Where the kernel lists what is loaded.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
const PARSERS: [&str; 2] = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"];

/// Its name, loaded if it is husk's own. `enabled`: the node has AppArmor.
///
/// A node whose kernel has AppArmor while nobody set it up (no securityfs, no parser) runs what has no wish without a
/// profile, as with other runtimes.
pub(super) fn profile(config: &ContainerConfig, enabled: bool) -> Result<Option<String>> {
    let security = &config.security;
    match find(config, enabled) {
        Err(error) if security.apparmor.is_none() => {
            warn!(%error, "the container has no AppArmor profile");
            Ok(None)
        }
        result => result,
    }
}

fn find(config: &ContainerConfig, enabled: bool) -> Result<Option<String>> {
    let loaded = match enabled {
        true => {
            let list = std::fs::read_to_string(PROFILES)
                .with_context(|| format!("read {PROFILES}; is securityfs mounted?"))?;
            Some(apparmor::loaded(&list))
        }
        false => None,
    };
    let security = &config.security;
    match apparmor::choose(security.apparmor.as_ref(), security.privileged, loaded.as_ref())? {
        Choice::None => Ok(None),
        Choice::Loaded(name) => Ok(Some(name)),
        Choice::LoadDefault => {
            let parser = PARSERS.map(Path::new).into_iter().find(|p| p.exists());
            match load(
                parser.unwrap_or(Path::new(PARSERS[0])),
                &apparmor::default_profile(),
            ) {
                Ok(()) => {
                    info!(profile = DEFAULT, "AppArmor profile loaded");
                    Ok(Some(DEFAULT.to_owned()))
                }
                Err(error) => match loaded.as_ref().and_then(apparmor::stand_in) {
                    Some(other) => {
                        warn!(%error, profile = other, "using another runtime's AppArmor profile");
                        Ok(Some(other.to_owned()))
                    }
                    None => Err(error),
                },
            }
        }
    }
}
