//! Names of an archive, made plain: where inside the layer an entry wants to be.

use super::super::LayerError;

/// A path below the layer's root without empty, `.` or `..` components. Empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(Vec<u8>);

/// What a name with the whiteout prefix asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mark<'a> {
    /// Hide this name of the directory in lower layers.
    Hide(&'a [u8]),
    /// Hide all that lower layers have in the directory.
    Opaque,
    /// Housekeeping of aufs that means nothing to anyone else.
    Ignored,
}

const PREFIX: &[u8] = b".wh.";

impl Name {
    /// Cleans `path` by its text alone, as every other runtime does. Leading slashes are dropped.
    pub(super) fn parse(path: &[u8]) -> Result<Self, LayerError> {
        let mut clean = Vec::with_capacity(path.len());
        for component in path.split(|&b| b == b'/') {
            match component {
                b"" | b"." => {}
                b".." if clean.is_empty() => return Err(LayerError::archive("path leads out of the layer")),
                b".." => clean.truncate(clean.iter().rposition(|&b| b == b'/').unwrap_or(0)),
                _ => push(&mut clean, component),
            }
        }
        Ok(Self(clean))
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn parent(&self) -> &[u8] {
        split(&self.0).0
    }

    pub(super) fn base(&self) -> &[u8] {
        split(&self.0).1
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `None` for a name that is not about whiteouts at all.
    pub(super) fn whiteout(&self) -> Option<Result<Mark<'_>, LayerError>> {
        if !self.0.windows(PREFIX.len()).any(|part| part == PREFIX) {
            return None;
        }
        for component in self.parent().split(|&b| b == b'/') {
            if let Some(rest) = component.strip_prefix(PREFIX) {
                // What aufs keeps house with is a directory, with files in it.
                return Some(if rest.starts_with(PREFIX) {
                    Ok(Mark::Ignored)
                } else {
                    Err(through_whiteout())
                });
            }
        }
        let rest = self.base().strip_prefix(PREFIX)?;
        Some(match rest {
            b".wh..opq" => Ok(Mark::Opaque),
            _ if rest.starts_with(PREFIX) => Ok(Mark::Ignored),
            b"" | b"." | b".." => Err(LayerError::archive("whiteout of no name")),
            _ => Ok(Mark::Hide(rest)),
        })
    }
}

/// Names that start with the whiteout prefix mean something else than files; none can be made.
pub(super) fn check_component(component: &[u8]) -> Result<(), LayerError> {
    if component.starts_with(PREFIX) {
        Err(through_whiteout())
    } else {
        Ok(())
    }
}

fn through_whiteout() -> LayerError {
    LayerError::archive("path leads through a whiteout")
}

/// Appends a component to a path.
pub(super) fn push(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

/// `path` with a component more.
pub(super) fn join(path: &[u8], component: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + 1 + component.len());
    joined.extend_from_slice(path);
    push(&mut joined, component);
    joined
}

/// Parent and last component; the parent of a single component is empty, the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_are_cleaned_by_text() {
        for (path, clean) in [
            ("a/b", "a/b"),
            ("./a//b/.", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("a/../b", "b"),
            ("a/b/../../c", "c"),
            ("./", ""),
            ("", ""),
            ("a/..", ""),
            ("..a/...", "..a/..."),
        ] {
            assert_eq!(
                Name::parse(path.as_bytes()).unwrap().bytes(),
                clean.as_bytes(),
                "{path}"
            );
        }
    }

    #[test]
    fn names_that_climb_out_are_refused() {
        for path in ["..", "../a", "/../a", "a/../../b", "./..", "a/b/../../../c"] {
            assert!(Name::parse(path.as_bytes()).is_err(), "{path}");
        }
    }

    #[test]
    fn whiteout_names() {
        let mark = |path: &str| match Name::parse(path.as_bytes()).unwrap().whiteout() {
            None => "none".to_owned(),
            Some(Err(_)) => "error".to_owned(),
            Some(Ok(mark)) => format!("{mark:?}"),
        };
        assert_eq!(mark("a/.wh"), "none");
        assert_eq!(mark("a/b.wh.c"), "none");
        assert_eq!(mark("a/.wh.b"), format!("{:?}", Mark::Hide(b"b")));
        assert_eq!(mark("a/.wh..b"), format!("{:?}", Mark::Hide(b".b")));
        assert_eq!(mark("a/.wh..wh..opq"), "Opaque");
        assert_eq!(mark("a/.wh..wh.plnk"), "Ignored");
        assert_eq!(mark(".wh..wh.plnk/12.34"), "Ignored");
        assert_eq!(mark("a/.wh.b/c"), "error");
        assert_eq!(mark("a/.wh."), "error");
        assert_eq!(mark("a/.wh.."), "error");
        assert_eq!(mark("a/.wh..."), "error");
    }
}
