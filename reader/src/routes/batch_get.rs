//! The documents of many sites at once.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use shared::ids::SiteId;

use crate::answer::Answer;
use crate::document::{Text, write_string};
use crate::error::Error;
use crate::openapi::schema;
use crate::queries::{Batch, FoundSite};
use crate::request::Call;

const SITE_IDS_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    #[serde(borrow)]
    site_ids: Vec<Text<'a>>,
}

/// `POST /v1/installed-apps/batch-get`: `{"site_ids":[…]}`, answered in the order asked, each as often as asked.
#[utoipa::path(
    post, path = "/v1/installed-apps/batch-get", tag = "look-ups", operation_id = "batch_get_sites",
    summary = "Up to 1000 sites at once",
    request_body(content = schema::BatchGet, content_type = "application/json"),
    responses((status = 200, description = "In the order asked, each as often as asked.", body = schema::BatchResults))
)]
pub(crate) async fn batch_get(call: &Call<'_>) -> Result<Answer, Error> {
    let Asked { site_ids } =
        serde_json::from_slice(&call.body).map_err(|error| Error::InvalidBody(error.to_string()))?;
    if site_ids.len() > SITE_IDS_MAX {
        let message = format!("site_ids holds {} ids; at most {SITE_IDS_MAX} are allowed", site_ids.len());
        return Err(Error::InvalidBody(message));
    }
    for Text(id) in &site_ids {
        SiteId::new(&**id)?;
    }
    let asked: Vec<&str> = site_ids.iter().map(|Text(id)| &**id).collect();
    let mut distinct = asked.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let (found, grounds) = call.app.replicas.ask(&Batch(&distinct), &call.demand).await?;
    let claim = grounds.of_all(found.values().map(|found| found.position));
    Ok(Answer::untagged(assemble(&asked, &found), claim))
}

/// Joins the stored documents, which are not read.
fn assemble(asked: &[&str], found: &HashMap<String, FoundSite>) -> Vec<u8> {
    /// The members around a document.
    const AROUND_BYTES: usize = 64;
    let document = |id: &&str| found.get(*id)?.document.as_ref().map(|document| &document.text);
    let documents: usize = asked.iter().filter_map(document).map(Bytes::len).sum();
    let ids: usize = asked.iter().map(|id| id.len() + AROUND_BYTES).sum();
    let mut out = Vec::with_capacity(documents + ids);
    out.extend_from_slice(b"{\"results\":[");
    for (index, id) in asked.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"{\"site_id\":" } else { b",{\"site_id\":" });
        write_string(&mut out, id);
        match document(id) {
            Some(document) => {
                out.extend_from_slice(b",\"status\":200,\"document\":");
                out.extend_from_slice(document);
                out.push(b'}');
            }
            None => out.extend_from_slice(b",\"status\":404}"),
        }
    }
    out.extend_from_slice(b"]}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::RowPosition;
    use crate::queries::Document;

    #[test]
    fn results_are_in_the_order_asked_and_repeated() {
        let document = Bytes::from_static(b"{\"n\":1.00}");
        let document = Document { text: document, etag: None, version: None };
        let position = RowPosition { partition: 0, next_offset: 1 };
        let site = |document| FoundSite { document, position };
        let found = HashMap::from([("a".to_owned(), site(Some(document))), ("gone".to_owned(), site(None))]);
        let text = |asked: &[&str]| String::from_utf8(assemble(asked, &found)).unwrap();
        assert_eq!(text(&[]), r#"{"results":[]}"#);
        assert_eq!(
            text(&["\"", "a", "gone", "a"]),
            concat!(
                r#"{"results":[{"site_id":"\"","status":404},{"site_id":"a","status":200,"document":{"n":1.00}},"#,
                r#"{"site_id":"gone","status":404},{"site_id":"a","status":200,"document":{"n":1.00}}]}"#
            )
        );
    }
}
