//! The id that a record's key holds.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::row::{Pointer, scalar_text, select};

/// Why a key names no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The record has no key, or its payload is null.
    #[error("the key is null")]
    Null,
    /// The key is not UTF-8.
    #[error("the key is not UTF-8")]
    NotText,
    /// The key is an array, or the member that should hold the id is no scalar.
    #[error("the key holds no scalar id")]
    NotScalar,
    /// The key is an object with several members, none of them called like the id.
    #[error("the key has no member {0:?}")]
    NoMember(String),
}

/// Reads the id from a key: `{"schema","payload"}` or the payload itself; of an object the member called `member`, else its
/// only member; of a JSON scalar its text; and of a key that is not JSON the whole of it.
pub fn key_id<'a>(key: Option<&'a [u8]>, member: &str) -> Result<Cow<'a, str>, KeyError> {
    let text = std::str::from_utf8(key.ok_or(KeyError::Null)?).map_err(|_| KeyError::NotText)?;
    match serde_json::from_str::<&RawValue>(text) {
        Ok(json) => payload_id(unwrapped(json), member),
        Err(_) => Ok(Cow::Borrowed(text)),
    }
}

/// Passes through `{"schema":…,"payload":…}` to the payload.
fn unwrapped(json: &RawValue) -> &RawValue {
    static WITH_SCHEMA: LazyLock<[Pointer; 2]> = LazyLock::new(|| ["schema", "payload"].map(Pointer::member));
    let mut found = [None, None];
    match (select(json.get(), WITH_SCHEMA.iter(), &mut found), found) {
        (Ok(2), [Some(_), Some(payload)]) => payload,
        _ => json,
    }
}

fn payload_id<'a>(payload: &'a RawValue, member: &str) -> Result<Cow<'a, str>, KeyError> {
    match payload.get().as_bytes().first() {
        Some(b'n') => Err(KeyError::Null),
        Some(b'{') => {
            let value = named(payload, member).or_else(|| only(payload));
            scalar_text(value.ok_or_else(|| KeyError::NoMember(member.to_owned()))?).ok_or(KeyError::NotScalar)
        }
        _ => scalar_text(payload).ok_or(KeyError::NotScalar),
    }
}

fn named<'a>(object: &'a RawValue, member: &str) -> Option<&'a RawValue> {
    let mut found = [None];
    select(object.get(), [&Pointer::member(member)], &mut found).ok()?;
    found[0]
}

fn only(object: &RawValue) -> Option<&RawValue> {
    let members: Vec<String> = serde_json::from_str::<std::collections::BTreeMap<String, IgnoredAny>>(object.get())
        .ok()?
        .into_keys()
        .collect();
    match members.as_slice() {
        [name] => named(object, name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_from_every_form_of_key() {
        for (key, id) in [
            (r#"{"site_id":"s-1"}"#, "s-1"),
            (r#"{"schema":{"type":"struct"},"payload":{"site_id":"s-1"}}"#, "s-1"),
            (r#"{"schema":{"type":"string"},"payload":"s-1"}"#, "s-1"),
            (r#"{"tenant":1,"site_id":42}"#, "42"),
            (r#"{"id":"the only one"}"#, "the only one"),
            (r#""quoted""#, "quoted"),
            ("42", "42"),
            ("true", "true"),
            ("0042", "0042"),
            ("4c351513-9f9b-5325-b8cd-0a1f449bbe7c", "4c351513-9f9b-5325-b8cd-0a1f449bbe7c"),
            ("{not json", "{not json"),
        ] {
            assert_eq!(key_id(Some(key.as_bytes()), "site_id").as_deref(), Ok(id), "{key}");
        }
    }

    #[test]
    fn a_key_without_an_id_says_why() {
        let no_member = KeyError::NoMember("site_id".to_owned());
        for (key, error) in [
            (None, KeyError::Null),
            (Some(&b"null"[..]), KeyError::Null),
            (Some(b"\xff"), KeyError::NotText),
            (Some(br#"{"schema":{},"payload":null}"#), KeyError::Null),
            (Some(b"[1]"), KeyError::NotScalar),
            (Some(br#"{"site_id":null}"#), KeyError::NotScalar),
            (Some(br#"{"a":1,"b":2}"#), no_member.clone()),
            (Some(b"{}"), no_member),
        ] {
            assert_eq!(key_id(key, "site_id"), Err(error), "{key:?}");
        }
    }
}
