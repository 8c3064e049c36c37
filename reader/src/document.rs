//! Parts of a stored document, cut out as text.
//!
//! A document is `{"site_id","version","apps":[{"app_id","instance_id",…}]}`. What is cut out keeps its text to the digit:
//! values are located, never read and written anew.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The elements of a document's `apps`, in its order.
pub(crate) fn apps(document: &[u8]) -> Result<Vec<App<'_>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        apps: Vec<&'a RawValue>,
    }

    let Document { apps } = serde_json::from_slice(document)?;
    apps.into_iter()
        .map(|text| {
            let Ids { app_id, instance_id } = serde_json::from_str(text.get())?;
            Ok(App { text, app_id: app_id.0, instance_id: instance_id.map(|id| id.0).unwrap_or_default() })
        })
        .collect()
}

#[derive(Deserialize)]
struct Ids<'a> {
    #[serde(borrow)]
    app_id: Text<'a>,
    #[serde(borrow, default)]
    instance_id: Option<Text<'a>>,
}

/// Text of JSON, borrowed where it holds no escapes (serde does that for a `Cow` only where it is a field itself).
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// One element.
pub(crate) struct App<'a> {
    text: &'a RawValue,
    pub(crate) app_id: Cow<'a, str>,
    /// Empty when the element has none.
    pub(crate) instance_id: Cow<'a, str>,
}

impl App<'_> {
    /// The element's text as stored.
    pub(crate) fn text(&self) -> &str {
        self.text.get()
    }

    /// Appends the members that are not ids as `,"name":value…`, their text as stored.
    pub(crate) fn write_details(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        const IDS: [&str; 3] = ["app_id", "instance_id", "site_id"];
        let Members(members) = serde_json::from_str(self.text.get())?;
        for (name, value) in members.iter().filter(|(name, _)| !IDS.contains(&&**name)) {
            out.push(b',');
            write_string(out, name);
            out.push(b':');
            out.extend_from_slice(value.get().as_bytes());
        }
        Ok(())
    }
}

/// The members of an object in their order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// Appends a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text is written to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"site_id":"s","version":3,"apps":[{"app_id":"a","instance_id":"i","version":"1","n":1.00,"o":{"k" : [1e400]}},{"app_id":"b\u0041"}]}"#;

    #[test]
    fn elements_and_members_keep_their_text() {
        let apps = apps(DOCUMENT.as_bytes()).unwrap();
        assert_eq!((&*apps[0].app_id, &*apps[0].instance_id), ("a", "i"));
        assert_eq!((&*apps[1].app_id, &*apps[1].instance_id), ("bA", ""));
        assert_eq!(apps[1].text(), r#"{"app_id":"b\u0041"}"#);
        let mut out = Vec::new();
        apps[0].write_details(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), r#","version":"1","n":1.00,"o":{"k" : [1e400]}"#);
    }

    #[test]
    fn what_is_no_document_is_an_error() {
        for bad in ["", "[]", "{}", r#"{"apps":[1]}"#, r#"{"apps":[{}]}"#] {
            assert!(apps(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
