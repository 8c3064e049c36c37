use super::*;

fn decode(column: &str) -> Result<InstalledApps, Rejection> {
    InstalledApps::decode(column, &Projection::default(), 100)
}

fn json(column: &str) -> String {
    decode(column).expect("valid").json
}

#[test]
fn apps_are_sorted_and_their_members_renamed() {
    let array = r#"[{"appDefId":"b","instanceId":"2","status":"INSTALLED","version":"1.0","permissions":["X"],"other":1},
        {"appDefId":"b","instanceId":"1","version":2.50,"installedAt":true},{"appDefId":7},{"appDefId":"a","status":null}]"#;
    let expected = concat!(
        r#"[{"app_id":"7"},{"app_id":"a"},{"app_id":"b","instance_id":"1","version":"2.50","installed_at":"true"},"#,
        r#"{"app_id":"b","instance_id":"2","version":"1.0","status":"INSTALLED","permissions":["X"]}]"#
    );
    assert_eq!(json(array), expected);
    let text = serde_json::to_string(array).expect("a string");
    assert_eq!(json(&text), expected, "a jsonb column is a string that holds the array");
}

#[test]
fn an_app_without_instance_stands_before_those_with_one() {
    let apps = decode(r#"[{"appDefId":"a","instanceId":"i"},{"appDefId":"a"}]"#).expect("valid");
    assert_eq!(apps.apps.iter().map(|app| app.instance_id.is_some()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn extra_members_keep_their_text_to_the_digit() {
    let array = r#"[{"appDefId":"a","permissions":{"n":1.10,"big":12345678901234567890123,"s":"\u0041"}}]"#;
    let expected = r#"[{"app_id":"a","permissions":{"n":1.10,"big":12345678901234567890123,"s":"\u0041"}}]"#;
    assert_eq!(json(array), expected);
}

#[test]
fn no_apps_is_an_empty_array_in_every_form() {
    for column in ["null", "\"null\"", "[]", "\" [ ] \"", r#"[{"appDefId":"a","status":"UNINSTALLED"}]"#] {
        assert_eq!(json(column), "[]", "{column}");
    }
}

#[test]
fn the_last_of_two_equal_elements_wins_also_when_not_installed() {
    assert_eq!(
        json(r#"[{"appDefId":"a","version":"1"},{"appDefId":"a","version":"2"}]"#),
        r#"[{"app_id":"a","version":"2"}]"#
    );
    assert_eq!(json(r#"[{"appDefId":"a"},{"appDefId":"a","status":"UNINSTALLED"}]"#), "[]");
    assert_eq!(json(r#"[{"appDefId":"a","status":"UNINSTALLED"},{"appDefId":"a"}]"#), r#"[{"app_id":"a"}]"#);
}

#[test]
fn what_is_wrong_is_told_by_reason() {
    let long = format!(r#"[{{"appDefId":"{}"}}]"#, "x".repeat(129));
    for (column, reason) in [
        ("{}", Reason::InvalidApps),
        ("7", Reason::InvalidApps),
        ("\"text\"", Reason::InvalidApps),
        ("\"[1,\"", Reason::InvalidApps),
        ("\"[] []\"", Reason::InvalidApps),
        ("[1]", Reason::InvalidApp),
        ("[{}]", Reason::InvalidApp),
        (r#"[{"appDefId":null}]"#, Reason::InvalidApp),
        (r#"[{"appDefId":["a"]}]"#, Reason::InvalidApp),
        (r#"[{"appDefId":"a","version":{}}]"#, Reason::InvalidApp),
        (r#"[{"appDefId":"a/b"}]"#, Reason::InvalidId),
        (r#"[{"appDefId":""}]"#, Reason::InvalidId),
        (r#"[{"appDefId":"a","instanceId":"\u0000"}]"#, Reason::InvalidId),
        (&long, Reason::InvalidId),
    ] {
        assert_eq!(decode(column).expect_err("invalid").reason, reason, "{column}");
    }
    let many = format!("[{}]", vec![r#"{"appDefId":"a"}"#; 101].join(","));
    assert_eq!(decode(&many).expect_err("invalid").reason, Reason::TooManyApps);
    let full = format!("[{}]", vec![r#"{"appDefId":"a"}"#; 100].join(","));
    assert!(decode(&full).is_ok());
}

#[test]
fn a_document_reads_back_and_its_tag_follows_its_bytes() {
    let site = SiteId::new("ż \"1\"").expect("an id");
    let apps = decode(r#"[{"appDefId":"a","instanceId":"i","permissions":[1.0]},{"appDefId":"b"}]"#).expect("valid");
    let document = apps.document(&site, Some(-3));
    assert_eq!(
        document,
        r#"{"site_id":"ż \"1\"","version":-3,"apps":[{"app_id":"a","instance_id":"i","permissions":[1.0]},{"app_id":"b"}]}"#
    );
    assert_eq!(InstalledApps::of_document(&document).expect("a document"), apps);
    assert_eq!(apps.document(&site, None).matches("version").count(), 0);
    assert_eq!(hash_of_etag(&apps.etag(Some(-3))), Some(apps.hash));
    assert_eq!(hash_of_etag(&apps.etag(None)), Some(apps.hash));
    assert_ne!(apps.etag(Some(1)), apps.etag(None));
}
