//! What a site must look like at the far end: in the view, and in the peer's table.

use serde_json::{Value, json};

use super::ids::{app_id, instance_id, site_id};
use super::site::{App, Site};

/// The document that the view serves for a site.
pub fn document(site: &Site) -> Value {
    let mut apps: Vec<Value> = site.apps.iter().map(|app| document_app(site, *app)).collect();
    let key = |app: &Value| app["app_id"].as_str().map(str::to_owned);
    apps.sort_by_key(key);
    json!({"site_id": site_id(site.number), "version": site.apps_version, "apps": apps})
}

fn document_app(site: &Site, app: App) -> Value {
    json!({
        "app_id": app_id(app.rank),
        "instance_id": instance_id(site.number, app.installation),
        "version": app.version_text(),
        "status": app.status(),
        "installed_at": app.installed_at(),
        "permissions": app.permissions(),
    })
}

/// The same as the bytes that the view stores and the reader sends: members in the contract's order, `extra` ones as the
/// source has written them.
pub fn document_text(site: &Site) -> String {
    let id = site_id(site.number);
    let mut apps: Vec<(String, App)> = site.apps.iter().map(|app| (app_id(app.rank), *app)).collect();
    apps.sort_by(|one, other| one.0.cmp(&other.0));
    let app = |(app_id, app): &(String, App)| {
        let instance = instance_id(site.number, app.installation);
        format!(r#"{{"app_id":"{app_id}","instance_id":"{instance}",{}}}"#, details_text(*app))
    };
    let apps: Vec<String> = apps.iter().map(app).collect();
    format!(r#"{{"site_id":"{id}","version":{},"apps":[{}]}}"#, site.apps_version, apps.join(","))
}

/// The members of an installed app that are no ids, as text.
pub fn details_text(app: App) -> String {
    format!(
        r#""version":"{}","status":"{}","installed_at":"{}","permissions":["{}"]"#,
        app.version_text(),
        app.status(),
        app.installed_at(),
        app.permissions().join("\", \"")
    )
}

/// The rows of `app_site` of a site: app, site, instance.
pub fn members(site: &Site) -> impl Iterator<Item = (String, String, String)> {
    site.apps.iter().map(|app| (app_id(app.rank), site_id(site.number), instance_id(site.number, app.installation)))
}

/// The column `installed_apps` of a site.
pub fn installed_apps(site: &Site) -> Value {
    let element = |app: &App| {
        json!({
            "status": app.status(),
            "version": app.version_text(),
            "appDefId": app_id(app.rank),
            "instanceId": instance_id(site.number, app.installation),
            "installedAt": app.installed_at(),
            "permissions": app.permissions(),
        })
    };
    site.apps.iter().map(element).collect()
}
