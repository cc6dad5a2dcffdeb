//! Which images this machine can run.

use std::fmt;
use std::sync::LazyLock;

use serde::Deserialize;

/// A platform as an index names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// `v3` for amd64, `v8` for arm64; empty is the base line.
    pub variant: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// The platform of this machine, with the best variant it can run.
pub fn host() -> &'static Platform {
    static HOST: LazyLock<Platform> = LazyLock::new(|| Platform {
        os: "linux".into(),
        architecture: architecture().into(),
        variant: variant().into(),
    });
    &HOST
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

#[cfg(target_arch = "x86_64")]
fn variant() -> &'static str {
    macro_rules! all {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    let v2 = all!("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cmpxchg16b");
    let v3 = v2 && all!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe");
    let v4 = v3 && all!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, ..) => "v2",
        _ => "v1",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn variant() -> &'static str {
    if cfg!(target_arch = "aarch64") { "v8" } else { "" }
}

/// How well an entry of an index suits this machine: higher is better, `None` is not at all. An entry that does not say
/// what it is for comes last.
pub(super) fn rank(platform: Option<&Platform>) -> Option<u32> {
    rank_for(host(), platform)
}

fn rank_for(host: &Platform, platform: Option<&Platform>) -> Option<u32> {
    let Some(platform) = platform else { return Some(0) };
    if platform.os != host.os || platform.architecture != host.architecture {
        return None;
    }
    let (wanted, have) = (level(host, &platform.variant)?, level(host, &host.variant)?);
    (wanted <= have).then_some(1 + wanted)
}

/// `v3` is 3; no variant is the base line of the architecture.
fn level(host: &Platform, variant: &str) -> Option<u32> {
    match (variant, host.architecture.as_str()) {
        ("", "amd64") => Some(1),
        ("", "arm64") => Some(8),
        ("", _) => Some(0),
        (v, _) => v.strip_prefix('v')?.parse().ok().filter(|l| *l < 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform {
            os: next(),
            architecture: next(),
            variant: next(),
        }
    }

    #[test]
    fn the_best_that_can_run_wins() {
        let rank = |host: &str, entry: &str| rank_for(&platform(host), Some(&platform(entry)));
        let v3 = "linux/amd64/v3";
        assert!(rank(v3, "linux/amd64/v3") > rank(v3, "linux/amd64/v2"));
        assert!(rank(v3, "linux/amd64/v2") > rank(v3, "linux/amd64"));
        assert_eq!(rank(v3, "linux/amd64"), rank(v3, "linux/amd64/v1"));
        assert!(rank(v3, "linux/amd64") > rank_for(&platform(v3), None));
        assert_eq!(
            rank("linux/arm64/v8", "linux/arm64"),
            rank("linux/arm64/v8", "linux/arm64/v8")
        );
        for (host, entry) in [
            (v3, "linux/amd64/v4"),
            (v3, "linux/amd64/strange"),
            (v3, "linux/386"),
            (v3, "windows/amd64"),
            (v3, "unknown/unknown"),
            ("linux/arm64/v8", "linux/arm/v7"),
            ("linux/arm64/v8", "linux/arm64/v9"),
        ] {
            assert_eq!(rank(host, entry), None, "{entry} on {host}");
        }
    }

    #[test]
    fn this_machine_can_run_its_own_base_line() {
        let base = Platform {
            variant: String::new(),
            ..host().clone()
        };
        assert!(rank(Some(&base)).is_some() && rank(Some(host())) >= rank(Some(&base)));
    }
}
