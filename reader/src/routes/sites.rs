//! A site and its apps.

use shared::ids::{AppId, SiteId};
use shared::problem::Kind;

use crate::answer::Answer;
use crate::document;
use crate::error::Error;
use crate::openapi::schema::{OneOrMore, SiteDocument as SiteDocumentSchema};
use crate::position::Claim;
use crate::queries::Document;
use crate::request::Call;

/// `GET /v1/sites/{site_id}/installed-apps`: the stored document, byte for byte.
#[utoipa::path(
    get, path = "/v1/sites/{site_id}/installed-apps", tag = "look-ups", operation_id = "get_site",
    summary = "The apps of a site",
    params(("site_id" = String, Path)),
    responses((status = 200, description = "The site's document, byte for byte as it is stored.", body = SiteDocumentSchema))
)]
pub(crate) async fn document(call: &Call<'_>) -> Result<Answer, Error> {
    let site = call.id(0, SiteId::new)?;
    let (document, claim) = look_up(call, &site).await?;
    Ok(Answer::document(document.text, document.etag, claim))
}

/// `GET /v1/sites/{site_id}/installed-apps/{app_id}`: the element, or the array of them where it is installed more than
/// once.
#[utoipa::path(
    get, path = "/v1/sites/{site_id}/installed-apps/{app_id}", tag = "look-ups", operation_id = "get_app_of_site",
    summary = "One app of a site",
    params(("site_id" = String, Path), ("app_id" = String, Path)),
    responses((status = 200, description = "The installation; an array where there are several.", body = OneOrMore))
)]
pub(crate) async fn app(call: &Call<'_>) -> Result<Answer, Error> {
    let (site, app) = (call.id(0, SiteId::new)?, call.id(1, AppId::new)?);
    let (document, claim) = look_up(call, &site).await?;
    let apps = document::apps(&document.text).map_err(Error::Document)?;
    let texts: Vec<_> = apps.iter().filter(|a| a.app_id == app.as_str()).map(|a| a.text()).collect();
    match texts[..] {
        [] => {
            let detail = "the site does not have this app installed";
            Err(Error::Missing { kind: Kind::AppNotInstalled, detail, claim: Box::new(claim) })
        }
        [one] => Ok(Answer::json(one.to_owned(), claim)),
        _ => Ok(Answer::json(format!("[{}]", texts.join(",")), claim)),
    }
}

/// The document of a site that is there. What a deleted one has left tells how far its replica is, as a document does: else a
/// client that was told of the delete could see the site again.
async fn look_up(call: &Call<'_>, site: &SiteId) -> Result<(Document, Claim), Error> {
    let (found, grounds) = call.app.replicas.ask_site(site, &call.demand).await?;
    let position = found.as_ref().map(|found| found.position);
    match (found.and_then(|found| found.document), position) {
        (Some(document), Some(position)) => Ok((document, grounds.of_site(position))),
        (_, marker) => {
            let detail = "the view has no site with this id: never seen, or deleted";
            Err(Error::Missing { kind: Kind::SiteNotFound, detail, claim: Box::new(grounds.of_all(marker)) })
        }
    }
}
