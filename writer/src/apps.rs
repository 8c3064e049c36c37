//! The installed apps of one site in the form in which the view stores and serves them.

use std::{borrow::Cow, cell::Cell, collections::BTreeMap, ops::Range};

use serde::{
    Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use shared::{
    envelope::{scalar_text, select},
    ids::{AppId, InstanceId, SiteId},
};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    nesting,
    projection::Projection,
    rejection::{Reason, Rejection},
};

/// The apps of one site: finished JSON, and what the look-ups and the change log need to know of it.
///
/// `json` is the array of the document, sorted by app id, then instance id (bytes), without duplicates and without apps that
/// are no longer installed; so equal apps give equal text, whatever order and form the source had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledApps {
    /// JSON text of the array.
    pub json: String,
    /// XXH3 (128 bits) of `json`; equal hash is taken for equal apps.
    pub hash: u128,
    /// The array's elements in order.
    pub apps: Vec<InstalledApp>,
}

/// One element of [`InstalledApps`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledApp {
    /// The app.
    pub app_id: AppId,
    /// Which installation, where the source tells.
    pub instance_id: Option<InstanceId>,
    json: Range<usize>,
}

type Key = (AppId, Option<InstanceId>);

impl InstalledApps {
    /// Reads the source's array of apps: JSON text of an array, of a string that holds one, or null (no apps).
    ///
    /// Two elements equal in app and instance: the last wins, also when it is one that is not installed.
    pub fn decode(column: &str, projection: &Projection, apps_max: usize) -> Result<Self, Rejection> {
        let invalid = |error: serde_json::Error| Rejection::new(Reason::InvalidApps, error.to_string());
        let unquoted = match column.as_bytes().first() {
            Some(b'"') => Some(serde_json::from_str::<String>(column).map_err(invalid)?),
            _ => None,
        };
        let text = unquoted.as_deref().unwrap_or(column).trim_ascii();
        match text.as_bytes().first() {
            Some(b'[') => {}
            Some(b'n') if text == "null" => return Ok(Self::new(BTreeMap::new())),
            _ => return Err(Rejection::new(Reason::InvalidApps, "the apps are no array".to_owned())),
        }
        if unquoted.is_some() {
            // In the record it was a string, in which nothing is nested.
            nesting::check(text.as_bytes())?;
        }
        let mut installed = BTreeMap::new();
        for element in elements(text, apps_max)? {
            let (key, app) = decode_app(element, projection)?;
            match app {
                Some(json) => installed.insert(key, json),
                None => installed.remove(&key),
            };
        }
        Ok(Self::new(installed))
    }

    /// Reads the apps back from a stored document.
    pub fn of_document(document: &str) -> serde_json::Result<Self> {
        #[derive(serde::Deserialize)]
        struct Document<'a> {
            #[serde(borrow)]
            apps: Vec<&'a RawValue>,
        }
        #[derive(serde::Deserialize)]
        struct Ids {
            app_id: String,
            instance_id: Option<String>,
        }
        let mut installed = BTreeMap::new();
        for app in serde_json::from_str::<Document<'_>>(document)?.apps {
            let ids: Ids = serde_json::from_str(app.get())?;
            let app_id = AppId::new(ids.app_id).map_err(serde_json::Error::custom)?;
            let instance_id = ids.instance_id.map(InstanceId::new).transpose().map_err(serde_json::Error::custom)?;
            installed.insert((app_id, instance_id), app.get().to_owned());
        }
        Ok(Self::new(installed))
    }

    fn new(installed: BTreeMap<Key, String>) -> Self {
        let mut json = String::with_capacity(2 + installed.values().map(|app| app.len() + 1).sum::<usize>());
        let mut apps = Vec::with_capacity(installed.len());
        json.push('[');
        for ((app_id, instance_id), app) in installed {
            if !apps.is_empty() {
                json.push(',');
            }
            let start = json.len();
            json.push_str(&app);
            apps.push(InstalledApp { app_id, instance_id, json: start..json.len() });
        }
        json.push(']');
        Self { hash: xxh3_128(json.as_bytes()), json, apps }
    }

    /// JSON text of one of `self.apps`.
    pub fn json_of(&self, app: &InstalledApp) -> &str {
        &self.json[app.json.clone()]
    }

    /// The finished document: `{"site_id","version","apps"}`, without `version` where there is none.
    pub fn document(&self, site_id: &SiteId, version: Option<i64>) -> String {
        let mut out = Vec::with_capacity(self.json.len() + 200);
        out.extend_from_slice(b"{\"site_id\":");
        write_json(&mut out, site_id.as_str());
        if let Some(version) = version {
            out.extend_from_slice(b",\"version\":");
            write_json(&mut out, &version);
        }
        out.extend_from_slice(b",\"apps\":");
        out.extend_from_slice(self.json.as_bytes());
        out.push(b'}');
        String::from_utf8(out).expect("made of UTF-8")
    }

    /// The strong tag of the document with this version: `<hash of the apps>-<version>`, equal for equal bytes.
    pub fn etag(&self, version: Option<i64>) -> String {
        match version {
            Some(version) => format!("{:032x}-{version}", self.hash),
            None => format!("{:032x}-", self.hash),
        }
    }
}

/// The hash of the apps that an [`InstalledApps::etag`] starts with.
pub fn hash_of_etag(etag: &str) -> Option<u128> {
    u128::from_str_radix(etag.split_once('-')?.0, 16).ok()
}

/// Appends the value's JSON text.
pub fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("texts and numbers have a JSON form, and a Vec takes every byte");
}

/// The array's elements, and an end to reading as soon as there are too many.
fn elements(array: &str, apps_max: usize) -> Result<Vec<&RawValue>, Rejection> {
    let exceeded = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_str(array);
    let elements = deserializer.deserialize_seq(Elements { max: apps_max, exceeded: &exceeded });
    match elements.and_then(|elements| deserializer.end().map(|()| elements)) {
        Ok(elements) => Ok(elements),
        Err(_) if exceeded.get() => {
            let detail = format!("the site has more apps than WRITER_SITE_APPS_MAX allows, {apps_max}");
            Err(Rejection::new(Reason::TooManyApps, detail))
        }
        Err(error) => Err(Rejection::new(Reason::InvalidApps, error.to_string())),
    }
}

struct Elements<'s> {
    max: usize,
    exceeded: &'s Cell<bool>,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of apps")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            if elements.len() == self.max {
                self.exceeded.set(true);
                return Err(A::Error::custom("too many apps"));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

/// One element: its key, and its JSON text unless it is no longer installed.
fn decode_app(element: &RawValue, projection: &Projection) -> Result<(Key, Option<String>), Rejection> {
    let pointers = &projection.app;
    let mut found = vec![None; pointers.pointers.len()];
    select(element.get(), &pointers.pointers, &mut found)
        .map_err(|error| Rejection::new(Reason::InvalidApp, format!("an app is no object: {error}")))?;
    let text_of = |index: usize, what: &str| -> Result<Option<Cow<'_, str>>, Rejection> {
        let Some(value) = found[index].filter(|value: &&RawValue| value.get() != "null") else {
            return Ok(None);
        };
        let text = scalar_text(value);
        text.map(Some).ok_or_else(|| Rejection::new(Reason::InvalidApp, format!("an app's {what} is no text")))
    };
    let app_id = text_of(0, "id")?.ok_or_else(|| Rejection::new(Reason::InvalidApp, "an app has no id".to_owned()))?;
    let app_id = AppId::new(app_id.into_owned()).map_err(Rejection::invalid_id)?;
    let instance_id = match pointers.instance {
        Some(index) => text_of(index, "instance")?,
        None => None,
    };
    let instance_id =
        instance_id.map(|id| InstanceId::new(id.into_owned()).map_err(Rejection::invalid_id)).transpose()?;

    let mut json = Vec::with_capacity(element.get().len() + 32);
    json.extend_from_slice(b"{\"app_id\":");
    write_json(&mut json, app_id.as_str());
    if let Some(id) = &instance_id {
        json.extend_from_slice(b",\"instance_id\":");
        write_json(&mut json, id.as_str());
    }
    let mut installed = true;
    for (name, index) in &pointers.texts {
        let Some(text) = text_of(*index, name)? else { continue };
        installed &=
            !(Some(*index) == pointers.status && projection.not_installed.iter().any(|status| *status == text));
        write_member(&mut json, name);
        write_json(&mut json, &text);
    }
    for (name, index) in &pointers.extra {
        let Some(value) = found[*index].filter(|value| value.get() != "null") else {
            continue;
        };
        write_member(&mut json, name);
        json.extend_from_slice(value.get().as_bytes());
    }
    json.push(b'}');
    Ok(((app_id, instance_id), installed.then(|| String::from_utf8(json).expect("made of UTF-8"))))
}

fn write_member(json: &mut Vec<u8>, name: &str) {
    json.push(b',');
    write_json(json, name);
    json.push(b':');
}

#[cfg(test)]
#[path = "apps_tests.rs"]
mod tests;
