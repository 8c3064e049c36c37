use proptest::{collection::btree_set, prelude::*};

use super::*;

const LIMITS: Limits = Limits { value_bytes_max: 1 << 20, site_apps_max: 100 };

impl Keyed for String {
    fn key(&self) -> &str {
        self
    }
}

fn said(apps: &str) -> Said {
    let row = format!(r#"{{"site_id":"s","version":7,"installed_apps":{apps}}}"#);
    project(&SourceRow { site_id: "s".to_owned(), row }, "site_id", &Projection::default(), LIMITS)
}

fn stored(apps: &str) -> SiteSeen {
    let Said::Site(apps, _) = said(apps) else { panic!("these apps are valid") };
    SiteSeen {
        site_id: "s".to_owned(),
        alive: true,
        version: Some(3),
        document: apps.document(&SiteId::new("s").expect("an id"), Some(3)),
        etag: apps.etag(Some(3)),
        partition: 1,
        offset: 5,
    }
}

#[test]
fn rows_are_projected_as_records_are() {
    // jsonb is an array within the row here, and a string of JSON in a record; numbers keep their digits.
    let array = r#"[{"appDefId":"a","permissions":[1.50]}]"#;
    assert_eq!(said(array), said(&serde_json::to_string(array).expect("text")));
    let Said::Site(apps, version) = said(array) else { panic!("a site") };
    assert_eq!((apps.json.as_str(), version), (r#"[{"app_id":"a","permissions":[1.50]}]"#, Some(7)));
    for (apps, reason) in [
        ("7", Reason::InvalidApps),
        (r#"[{}]"#, Reason::InvalidApp),
        (r#""__debezium_unavailable_value""#, Reason::IncompleteRow),
    ] {
        assert!(matches!(said(apps), Said::Rejected(rejection) if rejection.reason == reason), "{apps}");
    }
    let nameless = SourceRow { site_id: "a/b".to_owned(), row: r#"{"site_id":"a/b","installed_apps":[]}"#.to_owned() };
    let rejected = project(&nameless, "site_id", &Projection::default(), LIMITS);
    assert!(matches!(rejected, Said::Rejected(rejection) if rejection.reason == Reason::InvalidId));
}

#[test]
fn each_difference_has_its_kind_and_another_version_is_none() {
    let (a, b) = (r#"[{"appDefId":"a"}]"#, r#"[{"appDefId":"b"}]"#);
    let with = |change: fn(&mut SiteSeen)| {
        let mut seen = stored(a);
        change(&mut seen);
        Some(seen)
    };
    let different = |apps, damaged| Some(Difference::Different { apps, damaged });
    for (what, said, seen, expected) in [
        ("equal; the source's version is another one", said(a), with(|_| {}), None),
        ("neither has it", Said::Nothing, None, None),
        ("a marker of a site that the source has not", Said::Nothing, with(|seen| seen.alive = false), None),
        ("no row", said(a), None, Some(Difference::Missing)),
        ("a marker of a site that the source has", said(a), with(|seen| seen.alive = false), Some(Difference::Missing)),
        ("deleted at the source", Said::Nothing, with(|_| {}), Some(Difference::OnlyInView)),
        ("other apps", said(b), with(|_| {}), different(true, false)),
        (
            "another document",
            said(a),
            with(|seen| seen.document = seen.document.replace("\"a\"", "\"z\"")),
            different(false, true),
        ),
        ("no JSON", said(a), with(|seen| seen.document.truncate(9)), different(false, true)),
        ("a space more", said(a), with(|seen| seen.document.push(' ')), different(false, true)),
        ("another tag", said(a), with(|seen| seen.etag.push('9')), different(false, true)),
        ("a tag that is none", said(a), with(|seen| seen.etag = "x".to_owned()), different(true, true)),
        ("another version than the document's", said(a), with(|seen| seen.version = Some(4)), different(false, true)),
        ("damaged, and other apps", said(b), with(|seen| seen.document.truncate(9)), different(true, true)),
    ] {
        assert_eq!(compare(&said, seen.as_ref()), expected, "{what}");
    }
    let rejected = said("7");
    assert!(matches!(compare(&rejected, None), Some(Difference::Rejected(_))));
}

/// A key on the left, on the right, or on both sides.
type Pair = (Option<String>, Option<String>);

/// Reads both sides in chunks as the verb does, and joins them.
fn joined(left: &[String], right: &[String], chunks: (usize, usize)) -> (Vec<Pair>, usize) {
    let (mut a, mut b) = (Stream::unread(), Stream::unread());
    let (mut pairs, mut held_max) = (Vec::new(), 0);
    let (mut left, mut right) = (left.chunks(chunks.0), right.chunks(chunks.1));
    let next = |chunk: Option<&[String]>| match chunk {
        Some(rows) => (rows.to_vec(), rows.last().cloned()),
        None => (Vec::new(), None),
    };
    while a.read_to().is_some() || b.read_to().is_some() {
        if a.is_empty() {
            let (rows, read_to) = next(left.next());
            a.push(rows, read_to);
        }
        if b.is_empty() {
            let (rows, read_to) = next(right.next());
            b.push(rows, read_to);
        }
        held_max = held_max.max(a.rows.len() + b.rows.len());
        pairs.extend(join(&mut a, &mut b));
    }
    (pairs, held_max)
}

proptest! {
    #[test]
    fn every_key_of_both_sides_is_joined_once_and_in_order_whatever_the_chunks(
        left in btree_set("[a-d]{1,3}", 0..40),
        right in btree_set("[a-d]{1,3}", 0..40),
        chunks in (1usize..7, 1usize..7),
    ) {
        let expected: Vec<_> = left.union(&right).map(|key| {
            (left.get(key).cloned(), right.get(key).cloned())
        }).collect();
        let (left, right): (Vec<_>, Vec<_>) = (left.into_iter().collect(), right.into_iter().collect());
        let (pairs, held_max) = joined(&left, &right, chunks);
        prop_assert_eq!(pairs, expected);
        prop_assert!(held_max <= chunks.0 + chunks.1, "no more than a chunk of each side is held");
    }
}

#[test]
fn keys_that_were_read_without_rows_still_bound_the_join() {
    // The source lists b and c, and their rows are gone when they are read; the view's b is only in the view then.
    let (mut source, mut view) = (Stream::<String>::unread(), Stream::<String>::unread());
    source.push(vec!["a".to_owned()], Some("c".to_owned()));
    view.push(vec!["b".to_owned(), "d".to_owned()], Some("d".to_owned()));
    let pairs = join(&mut source, &mut view);
    assert_eq!(pairs, [(Some("a".to_owned()), None), (None, Some("b".to_owned()))]);
    source.push(Vec::new(), None);
    view.push(Vec::new(), None);
    assert_eq!(join(&mut source, &mut view), [(None, Some("d".to_owned()))]);
}
