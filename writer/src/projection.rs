//! The mapping from the source's rows to sites and their apps, as data. Users' tables differ; the code that reads them does
//! not.

use serde::Deserialize;
use shared::envelope::Pointer;

/// The mapping that fits the demo's table.
const DEFAULT: &str = include_str!("../projection.toml");

/// Names that a document's app objects have of their own; `extra` cannot take them.
const OWN_MEMBERS: [&str; 5] = ["app_id", "instance_id", "version", "status", "installed_at"];

/// Where a row keeps what the view needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Pointers into a row: id, apps and, where mapped, version; in this order, for one pass over the row.
    pub site: Vec<Pointer>,
    /// Pointers into an element of the array of apps.
    pub app: AppPointers,
    /// Statuses that mean "no longer installed".
    pub not_installed: Vec<String>,
    /// What the source sends for a large value that did not change (`unavailable.value.placeholder`).
    pub unavailable_value: String,
    /// What a truncated source table does.
    pub on_truncate: OnTruncate,
}

/// Pointers into an element, in one list for one pass, and which of them is which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPointers {
    /// The id first, then those of `instance`, `version`, `status`, `installed_at` that are mapped, then the extra ones.
    pub pointers: Vec<Pointer>,
    /// Index of the instance's pointer.
    pub instance: Option<usize>,
    /// Index of the status' pointer.
    pub status: Option<usize>,
    /// Text members that are passed on: name in the document, index of the pointer; in the document's order.
    pub texts: Vec<(&'static str, usize)>,
    /// Members passed on as they are: name, index of the pointer.
    pub extra: Vec<(String, usize)>,
}

/// What the writer does with a truncate record of the source table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTruncate {
    /// One dead letter; the view stays as it is.
    DeadLetter,
    /// The partition stops until an operator decides.
    Block,
}

/// A projection file that cannot be used; the text names the key.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// Not TOML, a key that does not exist, a key that is missing or a value of the wrong type.
    #[error("{0}")]
    File(#[from] toml::de::Error),
    /// The pointer under this key is none.
    #[error("{key}: {error}")]
    Pointer {
        /// The key in the file.
        key: &'static str,
        /// What is wrong with it.
        error: shared::envelope::PointerError,
    },
    /// An extra member would take the place of a member of the document.
    #[error("app.extra: {0:?} is a member that documents have already")]
    Extra(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    site: SiteSection,
    app: AppSection,
    #[serde(default)]
    source: SourceSection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteSection {
    id: String,
    version: Option<String>,
    apps: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppSection {
    id: String,
    instance: Option<String>,
    version: Option<String>,
    status: Option<String>,
    installed_at: Option<String>,
    #[serde(default)]
    not_installed: Vec<String>,
    #[serde(default)]
    extra: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SourceSection {
    unavailable_value: String,
    on_truncate: OnTruncate,
}

impl Default for SourceSection {
    fn default() -> Self {
        Self { unavailable_value: "__debezium_unavailable_value".to_owned(), on_truncate: OnTruncate::DeadLetter }
    }
}

impl Default for Projection {
    fn default() -> Self {
        Self::parse(DEFAULT).expect("the default projection is tested")
    }
}

impl Projection {
    /// Reads a projection file's text.
    pub fn parse(text: &str) -> Result<Self, ProjectionError> {
        let File { site, app, source } = toml::from_str(text)?;
        let mut pointers = vec![pointer("site.id", &site.id)?, pointer("site.apps", &site.apps)?];
        if let Some(version) = &site.version {
            pointers.push(pointer("site.version", version)?);
        }
        Ok(Self {
            site: pointers,
            not_installed: app.not_installed.clone(),
            app: AppPointers::new(app)?,
            unavailable_value: source.unavailable_value,
            on_truncate: source.on_truncate,
        })
    }

    /// Name of the key's member that holds the site id.
    pub fn key_member(&self) -> &str {
        self.site[0].last_token()
    }
}

impl AppPointers {
    fn new(app: AppSection) -> Result<Self, ProjectionError> {
        let mut pointers = vec![pointer("app.id", &app.id)?];
        let mut add = |key, text: &Option<String>| -> Result<Option<usize>, ProjectionError> {
            let Some(text) = text else { return Ok(None) };
            pointers.push(pointer(key, text)?);
            Ok(Some(pointers.len() - 1))
        };
        let instance = add("app.instance", &app.instance)?;
        let version = add("app.version", &app.version)?;
        let status = add("app.status", &app.status)?;
        let installed_at = add("app.installed_at", &app.installed_at)?;
        let texts = [("version", version), ("status", status), ("installed_at", installed_at)];
        let mut extra = Vec::with_capacity(app.extra.len());
        for name in app.extra {
            if OWN_MEMBERS.contains(&name.as_str()) {
                return Err(ProjectionError::Extra(name));
            }
            pointers.push(Pointer::member(&name));
            extra.push((name, pointers.len() - 1));
        }
        let texts = texts.into_iter().filter_map(|(name, index)| Some((name, index?))).collect();
        Ok(Self { pointers, instance, status, texts, extra })
    }
}

fn pointer(key: &'static str, text: &str) -> Result<Pointer, ProjectionError> {
    text.parse().map_err(|error| ProjectionError::Pointer { key, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_maps_the_demo_table() {
        let projection = Projection::default();
        assert_eq!(projection.key_member(), "site_id");
        assert_eq!(projection.app.texts.len(), 3);
        assert_eq!(projection.app.extra, [("permissions".to_owned(), 5)]);
        assert_eq!(projection.not_installed, ["UNINSTALLED"]);
    }

    #[test]
    fn optional_keys_that_are_left_out_are_not_mapped() {
        let text = "[site]\nid = '/id'\napps = '/deep/apps'\n[app]\nid = '/a'";
        let projection = Projection::parse(text).expect("valid");
        assert_eq!((projection.site.len(), projection.app.pointers.len()), (2, 1));
        assert_eq!(projection.unavailable_value, "__debezium_unavailable_value");
    }

    #[test]
    fn errors_name_the_key() {
        let site = "[site]\nid = '/id'\napps = '/apps'\n";
        for (text, named) in [
            ("[site]\nid = '/site_id'\nno_such_key = '/x'\n".to_owned(), "no_such_key"),
            (format!("{site}[app]\nid = 'no-slash'"), "app.id"),
            (format!("{site}[app]\nid = '/a'\nextra = ['status']"), "status"),
            (format!("{site}[app]\ninstance = '/a'"), "id"),
            (format!("{site}[app]\nid = '/a'\n[source]\non_truncate = 'drop'"), "on_truncate"),
        ] {
            let error = Projection::parse(&text).expect_err("invalid").to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
