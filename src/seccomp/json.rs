//! JSON values that know where in the document they stand, so that an error can say it.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A value and its path, such as `syscalls[3].args[0].op`.
pub(super) struct Field<'a> {
    path: String,
    value: &'a Value,
}

type Parsed<T> = Result<T, String>;

impl<'a> Field<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            path: String::new(),
            value,
        }
    }

    /// An error about this field.
    pub(super) fn problem(&self, what: &str) -> String {
        match self.path.as_str() {
            "" => what.to_owned(),
            path => format!("{path}: {what}"),
        }
    }

    /// A member of an object. `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|v| !v.is_null())?;
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Some(Self { path, value })
    }

    pub(super) fn object(&self) -> Parsed<()> {
        match self.value {
            Value::Object(_) => Ok(()),
            other => Err(self.expected("an object", other)),
        }
    }

    pub(super) fn list(&self) -> Parsed<Vec<Self>> {
        let Value::Array(items) = self.value else {
            return Err(self.expected("a list", self.value));
        };
        let item = |(i, value)| Self {
            path: format!("{}[{i}]", self.path),
            value,
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// The list at `key`, empty if absent.
    pub(super) fn list_at(&self, key: &str) -> Parsed<Vec<Self>> {
        self.get(key).map_or(Ok(Vec::new()), |f| f.list())
    }

    pub(super) fn text(&self) -> Parsed<&'a str> {
        self.value
            .as_str()
            .ok_or_else(|| self.expected("a string", self.value))
    }

    pub(super) fn number(&self, max: u64) -> Parsed<u64> {
        let number = self.value.as_u64().filter(|n| *n <= max);
        number.ok_or_else(|| self.expected(&format!("a whole number from 0 to {max}"), self.value))
    }

    /// One of an enumeration's names.
    pub(super) fn one_of<T: DeserializeOwned>(&self, what: &str) -> Parsed<T> {
        let text = self.text()?;
        serde_json::from_value(Value::String(text.to_owned())).map_err(|_| self.expected(what, self.value))
    }

    fn expected(&self, what: &str, found: &Value) -> String {
        let shown: String = found.to_string().chars().take(60).collect();
        self.problem(&format!("{shown} found, expected {what}"))
    }
}
