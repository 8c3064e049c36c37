use std::sync::Arc;

use shared::ids::SiteId;

use super::*;
use crate::{apps::InstalledApps, projection::Projection};

fn apps(app: &str) -> Arc<InstalledApps> {
    let array = format!(r#"[{{"appDefId":"{app}"}}]"#);
    Arc::new(InstalledApps::decode(&array, &Projection::default(), 10).expect("valid"))
}

fn said(app: &str) -> Said {
    Said::Site(apps(app), Some(1))
}

fn seen(app: &str, offset: i64) -> SiteSeen {
    let apps = apps(app);
    let document = apps.document(&SiteId::new("s").expect("an id"), Some(1));
    let (site_id, etag) = ("s".to_owned(), apps.etag(Some(1)));
    SiteSeen { site_id, alive: true, version: Some(1), document, etag, partition: 0, offset }
}

fn first_look(said: &Said, seen: Option<&SiteSeen>) -> Candidate {
    Candidate::new("s".to_owned(), compare(said, seen).expect("it differs"), said)
}

fn round(end: i64, proves: bool) -> Round {
    Round { proves, ends: BTreeMap::from([(0, end)]) }
}

#[test]
fn a_difference_is_over_when_the_view_holds_what_the_source_said_at_any_look() {
    let mut candidate = first_look(&said("b"), Some(&seen("a", 1)));
    assert!(candidate.look(&said("c"), Some(&seen("a", 1)), &round(5, false)), "the view stands");
    assert!(
        !candidate.clone().look(&said("d"), Some(&seen("b", 3)), &round(5, true)),
        "it has followed to the first look"
    );
    assert!(!candidate.clone().look(&said("d"), Some(&seen("c", 3)), &round(5, true)), "and to the second");
    assert!(!candidate.clone().look(&said("a"), Some(&seen("a", 1)), &round(5, true)), "the source has come back");
    assert!(candidate.look(&said("d"), Some(&seen("a", 1)), &round(5, true)));
    assert!(!candidate.proven, "it changed after the look before: the view may hold what was in between");
    assert!(candidate.look(&said("d"), Some(&seen("a", 1)), &round(5, true)) && candidate.proven);
}

#[test]
fn a_row_that_a_later_record_has_written_is_no_difference_and_an_older_one_is() {
    let candidate = || first_look(&said("b"), Some(&seen("a", 1)));
    assert!(!candidate().look(&said("d"), Some(&seen("x", 5)), &round(5, true)), "written behind the ends");
    assert!(candidate().look(&said("d"), Some(&seen("x", 4)), &round(5, true)), "written before them");
    let mut damaged = seen("x", 5);
    damaged.document.push(' ');
    assert!(candidate().look(&said("d"), Some(&damaged), &round(5, true)), "no record writes a damaged row");
    assert!(candidate().look(&said("d"), Some(&seen("x", 5)), &Round::default()), "without ends nothing is known");
}

#[test]
fn a_site_that_is_deleted_and_comes_back_is_no_difference() {
    let gone = first_look(&Said::Nothing, Some(&seen("a", 1)));
    assert!(!gone.clone().look(&said("b"), None, &round(5, true)), "the delete has arrived, and a new site since");
    assert!(gone.clone().look(&Said::Nothing, Some(&seen("a", 1)), &round(5, true)), "the delete was lost");
    let mut damaged = seen("b", 1);
    damaged.document.push(' ');
    let mut candidate = first_look(&said("b"), Some(&damaged));
    assert!(candidate.look(&said("c"), Some(&damaged), &round(5, true)), "the tag alone is not the document");
}
