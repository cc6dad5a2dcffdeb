//! CNI specification versions.

use std::fmt;
use std::str::FromStr;

/// Version of the specification a configuration or result follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u16, u16, u16);

impl Version {
    /// Results become `interfaces` and `ips`; plugins are chained through `prevResult`.
    pub const V0_3_0: Self = Self(0, 3, 0);
    /// The `version` of each address goes.
    pub const V1_0_0: Self = Self(1, 0, 0);
    /// The verbs STATUS and GC.
    pub const V1_1_0: Self = Self(1, 1, 0);
    /// The newest husk speaks.
    pub const NEWEST: Self = Self::V1_1_0;
    /// What a configuration without a version follows.
    pub const OLDEST: Self = Self(0, 1, 0);

    /// Whether husk can run plugins with it.
    pub fn is_supported(self) -> bool {
        (Self::OLDEST..=Self::NEWEST).contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<u16> = text.split('.').map_while(|part| part.parse().ok()).collect();
        match parts[..] {
            [major, minor, patch] if text.split('.').count() == 3 => Ok(Self(major, minor, patch)),
            [major, minor] if text.split('.').count() == 2 => Ok(Self(major, minor, 0)),
            _ => Err(format!("{text:?} is no CNI version, such as 1.0.0")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let parse = |text: &str| text.parse::<Version>().unwrap();
        assert!(parse("0.3.1") > Version::V0_3_0);
        assert!(parse("0.10.0") > parse("0.4.0"));
        assert!(parse("1.1.0").is_supported());
        assert!(!parse("1.2.0").is_supported());
        for text in ["", "1", "a.b.c", "1.0.0.0", "1..0", "1.0.x", "1.0.-1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
