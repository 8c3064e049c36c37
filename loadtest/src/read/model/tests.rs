use super::*;
use crate::dataset::{Keys, Recipe};

fn recipe(events: u64) -> Recipe {
    Recipe { events, sites: 300, unrelated_percent: 0, keys: Keys::Uniform, site_apps: 5, partitions: 2, seed: 3 }
}

fn model() -> Model {
    let Ok(table) = recipe(300).play(|_| Ok::<_, std::convert::Infallible>(()));
    let etags = table.sites.iter().map(|site| (site_id(site.number), format!("tag-{}", site.number))).collect();
    Model::new(table.sites, etags)
}

fn site(site: u64) -> Ask {
    Ask::Site { site, knows_tag: false }
}

#[test]
fn requests_are_those_of_the_api() {
    let model = model();
    let text = |ask: &Ask| {
        let mut out = Vec::new();
        model.write(ask, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        text(&Ask::Site { site: 2, knows_tag: true }),
        format!(
            "GET /v1/sites/{}/installed-apps HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: loadtest\r\naccept: */*\r\n\
             if-none-match: \"tag-2\"\r\n\r\n",
            site_id(2)
        )
    );
    let batch = text(&Ask::Batch(vec![0, 999]));
    let body = format!("{{\"site_ids\":[\"{}\",\"{}\"]}}", site_id(0), site_id(999));
    assert!(batch.ends_with(&format!("content-length: {}\r\n\r\n{body}", body.len())), "{batch}");
    assert!(!text(&Ask::Site { site: 999, knows_tag: true }).contains("if-none-match"), "what is unknown has no tag");
}

#[test]
fn a_wrong_byte_status_or_length_is_found() {
    let model = model();
    let document = document_text(&model.sites[7]);
    let judge = |ask: &Ask, status, body: &str, closely| model.judge(ask, status, body.as_bytes(), closely);
    assert_eq!(judge(&site(7), 200, &document, true), Verdict::Right);
    let other = document.replacen("INSTALLED", "INSTALLEX", 1);
    assert_eq!(judge(&site(7), 200, &other, false), Verdict::Right, "only some bodies are compared");
    for (ask, status, body, closely) in [
        (site(7), 200, other.as_str(), true),
        (site(7), 200, &document[1..], false),
        (site(7), 404, "", false),
        (site(7), 304, "", false),
        (site(300), 200, &document, false),
        (Ask::Site { site: 7, knows_tag: true }, 200, &document, false),
        (Ask::Batch(vec![7]), 200, "{\"results\":[]}", true),
        (Ask::Count(0), 200, "{}", true),
        (Ask::Sites(0), 200, "{}", true),
        (Ask::Instance { site: 7, place: 0 }, 200, "{}", true),
        (Ask::Instance { site: 300, place: 0 }, 200, "{}", false),
    ] {
        assert!(matches!(judge(&ask, status, body, closely), Verdict::Wrong(_)), "{ask:?} {status} {body}");
    }
    assert_eq!(judge(&site(7), 503, "", true), Verdict::Refused);
    assert_eq!(judge(&site(300), 404, "{}", true), Verdict::Right);
    assert_eq!(judge(&Ask::Site { site: 7, knows_tag: true }, 304, "", true), Verdict::Right);
}

#[test]
fn every_body_is_made_of_the_table() {
    let model = model();
    let text = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    let batch = text(model.batch(&[7, 300]));
    assert_eq!(batch["results"][0]["document"], crate::dataset::document(&model.sites[7]));
    assert_eq!(batch["results"][1]["status"], 404);
    let instance = text(model.instance(7, 1).into_bytes());
    assert_eq!((&instance["site_id"], &instance["status"]), (&site_id(7).into(), &"INSTALLED".into()));
    let members: usize = model.pages.iter().map(Vec::len).sum();
    assert_eq!(members, model.sites.iter().map(|site| site.apps.len()).sum::<usize>());
    let rows = model.page(0);
    assert!(rows.len() > PAGE_ROWS && rows.is_sorted());
    let row =
        |(site, instance): &(String, String)| format!("{{\"site_id\":\"{site}\",\"instance_id\":\"{instance}\"}}");
    let page = |count: usize, next: &str| {
        let rows: Vec<String> = rows.iter().take(count).map(row).collect();
        format!("{{\"app_id\":\"{}\",\"sites\":[{}],\"next\":{next}}}", app_id(0), rows.join(","))
    };
    let judge = |body: &str| model.judge(&Ask::Sites(0), 200, body.as_bytes(), true) == Verdict::Right;
    assert!(judge(&page(100, "\"token\"")));
    for (count, next) in [(99, "\"token\""), (101, "\"token\""), (100, "null")] {
        assert!(!judge(&page(count, next)), "{count} {next}");
    }
}

#[test]
fn while_a_backlog_is_drained_every_state_of_a_site_is_right_and_no_other() {
    let mut model = model();
    let mut changed = None;
    let told = |change: &crate::dataset::Change<'_>| {
        if change.number >= 300 {
            model.expect_later(change.site);
            changed.get_or_insert_with(|| change.site.clone());
        }
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(_) = recipe(400).play(told);
    let state = changed.unwrap();
    let (before, after) = (document_text(&model.sites[state.number as usize]), document_text(&state));
    let judge = |body: &str| model.judge(&site(state.number), 200, body.as_bytes(), true);
    assert_eq!((judge(&before), judge(&after)), (Verdict::Right, Verdict::Right));
    let never = after.replacen(&format!("\"version\":{}", state.apps_version), "\"version\":99999", 1);
    for body in [never.as_str(), "", "{}", &before.replacen("INSTALLED", "X", 1)] {
        assert!(matches!(judge(body), Verdict::Wrong(_)), "{body}");
    }
}
