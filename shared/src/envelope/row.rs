//! Members of a row, found by pointer and borrowed from its text.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON Pointer (RFC 6901) through members of objects; array elements cannot be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// The text is not a usable pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a JSON pointer to a member, such as \"/site_id\" or \"/after/id\"")]
pub struct PointerError(String);

impl Pointer {
    /// A pointer to one member of the outermost object, whatever characters its name has.
    pub fn member(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// The name of the member that it ends at.
    pub fn last_token(&self) -> &str {
        self.0.last().expect("a pointer has at least one token")
    }

    /// The name of the member when it is one of the outermost object: a column, where the object is a row.
    pub fn column(&self) -> Option<&str> {
        match self.0.as_slice() {
            [name] => Some(name),
            _ => None,
        }
    }
}

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let tokens = text.strip_prefix('/').ok_or_else(|| PointerError(text.to_owned()))?;
        Ok(Self(tokens.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect()))
    }
}

/// A value as the source gave it, or the knowledge that it gave none.
///
/// Absent is not null: a missing column and the placeholder of an unchanged large value (`unavailable.value.placeholder`)
/// both mean "as before".
#[derive(Debug, Clone, Copy)]
pub enum Column<'a> {
    /// The value's JSON text; null is a value.
    Present(&'a RawValue),
    /// The record does not tell the value.
    Absent,
}

impl<'a> Column<'a> {
    /// Tells a value that was found (or not) from the placeholder.
    pub fn new(found: Option<&'a RawValue>, unavailable_value: &str) -> Self {
        match found {
            Some(value) if is_string(value.get(), unavailable_value) => Self::Absent,
            Some(value) => Self::Present(value),
            None => Self::Absent,
        }
    }
}

/// Bytes that one byte of text may take in JSON (`\u0041`); a longer string need not be decoded to be told apart.
const ESCAPE_BYTES_MAX: usize = 6;

fn is_string(json: &str, text: &str) -> bool {
    json.starts_with('"')
        && (text.len() + 2..=text.len() * ESCAPE_BYTES_MAX + 2).contains(&json.len())
        && serde_json::from_str::<String>(json).is_ok_and(|s| s == text)
}

/// The text of a JSON scalar: a string's content, the JSON text of a number or boolean; `None` for null, arrays, objects and
/// strings that are not text (lone surrogates).
pub fn scalar_text(value: &RawValue) -> Option<Cow<'_, str>> {
    let json = value.get();
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<Text<'_>>(json).ok().map(|text| text.0),
        b'n' | b'[' | b'{' => None,
        _ => Some(Cow::Borrowed(json)),
    }
}

/// A string that stays borrowed where it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Finds the members that the pointers name, in one pass over the object's text; `None` where there is none.
///
/// Gives the number of the object's members. Where a name stands twice the last one counts. Errors: `json` is no object, or
/// not JSON.
pub fn select<'a, 'p>(
    json: &'a str,
    pointers: impl IntoIterator<Item = &'p Pointer>,
    found: &mut [Option<&'a RawValue>],
) -> serde_json::Result<usize> {
    let tokens: Vec<&[String]> = pointers.into_iter().map(|pointer| pointer.0.as_slice()).collect();
    select_tokens(json, &tokens, found)
}

fn select_tokens<'a>(
    json: &'a str,
    tokens: &[&[String]],
    found: &mut [Option<&'a RawValue>],
) -> serde_json::Result<usize> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let members = Members { tokens, found }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    for (path, slot) in tokens.iter().zip(found) {
        if path.len() > 1
            && let Some(inner) = slot.take().filter(|value| value.get().starts_with('{'))
        {
            select_tokens(inner.get(), &[&path[1..]], std::slice::from_mut(slot))?;
        }
    }
    Ok(members)
}

struct Members<'s, 'a> {
    tokens: &'s [&'s [String]],
    found: &'s mut [Option<&'a RawValue>],
}

impl<'a> DeserializeSeed<'a> for Members<'_, 'a> {
    type Value = usize;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Members<'_, 'a> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut members = 0;
        while let Some(wanted) = map.next_key_seed(Wanted(self.tokens))? {
            match wanted {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(first) => {
                    let value = map.next_value::<&'a RawValue>()?;
                    let name = &self.tokens[first][0];
                    for (path, slot) in self.tokens.iter().zip(self.found.iter_mut()) {
                        if path[0] == *name {
                            *slot = Some(value);
                        }
                    }
                }
            }
            members += 1;
        }
        Ok(members)
    }
}

/// Reads a member's name and gives the first path that starts with it, without keeping the name.
struct Wanted<'s>(&'s [&'s [String]]);

impl<'a> DeserializeSeed<'a> for Wanted<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Wanted<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|path| path[0] == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick<'a>(json: &'a str, pointer: &str) -> Option<&'a str> {
        let pointer: Pointer = pointer.parse().expect("a pointer");
        let mut found = [None];
        select(json, [&pointer], &mut found).expect("an object");
        found[0].map(RawValue::get)
    }

    #[test]
    fn members_are_found_by_pointer_and_keep_their_text() {
        let row = r#"{"site_id":"s","n":1.10,"deep":{"er":{"x":[1, 2]}},"a/b":null,"esc\u0061ped":3,"n":2.0}"#;
        assert_eq!(pick(row, "/site_id"), Some(r#""s""#));
        assert_eq!(pick(row, "/n"), Some("2.0"), "the last one counts");
        assert_eq!(pick(row, "/deep/er/x"), Some("[1, 2]"));
        assert_eq!(pick(row, "/a~1b"), Some("null"));
        assert_eq!(pick(row, "/escaped"), Some("3"));
        assert_eq!(pick(row, "/missing"), None);
        assert_eq!(pick(row, "/site_id/deeper"), None);
    }

    #[test]
    fn two_pointers_may_share_a_member() {
        let (a, b): (Pointer, Pointer) = ("/a/x".parse().expect("a"), "/a/y".parse().expect("b"));
        let mut found = [None, None];
        select(r#"{"a":{"x":1,"y":2}}"#, [&a, &b], &mut found).expect("an object");
        assert_eq!(found.map(|value| value.map(RawValue::get)), [Some("1"), Some("2")]);
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for bad in ["", "[]", "1", "{", r#"{"a":1}}"#, r#"{"a":tru}"#] {
            assert!(select(bad, [&Pointer::member("a")], &mut [None]).is_err(), "{bad}");
        }
        assert!("site_id".parse::<Pointer>().is_err());
    }

    #[test]
    fn the_placeholder_is_absent_and_null_is_not() {
        let raw = |json: &'static str| serde_json::from_str::<&RawValue>(json).expect("json");
        let placeholder = "__debezium_unavailable_value";
        let column = |json| Column::new(Some(raw(json)), placeholder);
        assert!(matches!(column(r#""__debezium_unavailable_value""#), Column::Absent));
        assert!(matches!(column(r#""__debezium_unavailable\u005fvalue""#), Column::Absent));
        assert!(matches!(column("null"), Column::Present(_)));
        assert!(matches!(column(r#""x__debezium_unavailable_value""#), Column::Present(_)));
        assert!(matches!(Column::new(None, placeholder), Column::Absent));
    }
}
