//! A site and its apps.

use shared::ids::{AppId, SiteId};
use shared::problem::Kind;

use crate::answer::Answer;
use crate::document;
use crate::error::Error;
use crate::openapi::schema::{OneOrMore, SiteDocument as SiteDocumentSchema};
use crate::position::Claim;
use crate::queries::{FoundDocument, SiteDocument};
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
    let (found, claim) = look_up(call, &site).await?;
    Ok(Answer::document(found.document, &found.etag, claim))
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
    let (found, claim) = look_up(call, &site).await?;
    let apps = document::apps(&found.document).map_err(Error::Document)?;
    let texts: Vec<_> = apps.iter().filter(|a| a.app_id == app.as_str()).map(|a| a.text()).collect();
    match texts[..] {
        [] => {
            let detail = "the site does not have this app installed";
            Err(Error::Missing { kind: Kind::AppNotInstalled, detail, claim })
        }
        [one] => Ok(Answer::json(one.to_owned(), claim)),
        _ => Ok(Answer::json(format!("[{}]", texts.join(",")), claim)),
    }
}

/// A site that is there, with the claim of its partition.
async fn look_up(call: &Call<'_>, site: &SiteId) -> Result<(FoundDocument, Claim), Error> {
    match call.app.replicas.ask(&SiteDocument(site), &call.demand).await? {
        (Some(found), sample) => {
            let claim = sample.of_partition(found.partition);
            Ok((found, claim))
        }
        (None, sample) => {
            let detail = "the view has no site with this id: never seen, or deleted";
            Err(Error::Missing { kind: Kind::SiteNotFound, detail, claim: sample.of_all() })
        }
    }
}
