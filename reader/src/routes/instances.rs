//! An instance of an app, and where it is.

use shared::ids::InstanceId;
use shared::problem::Kind;

use super::apps::write_details;
use crate::answer::Answer;
use crate::document::write_string;
use crate::error::Error;
use crate::openapi::schema;
use crate::queries::Instance;
use crate::request::Call;

/// `GET /v1/instances/{instance_id}`: the app and the site it is installed on, and the installation's details.
#[utoipa::path(
    get, path = "/v1/instances/{instance_id}", tag = "look-ups", operation_id = "get_instance",
    summary = "Where one installation is",
    params(("instance_id" = String, Path)),
    responses((status = 200, description = "Its app, its site, and its other members.", body = schema::Instance))
)]
pub(crate) async fn instance(call: &Call<'_>) -> Result<Answer, Error> {
    let instance = call.id(0, InstanceId::new)?;
    let ((found, positions), grounds) = call.app.replicas.ask(&Instance(&instance), &call.demand).await?;
    let claim = grounds.of_snapshot(&positions);
    let Some(found) = found else {
        let detail = "no site has an app installed with this instance id";
        return Err(Error::Missing { kind: Kind::InstanceNotFound, detail, claim: Box::new(claim) });
    };
    let mut body = b"{\"instance_id\":".to_vec();
    write_string(&mut body, instance.as_str());
    body.extend_from_slice(b",\"app_id\":");
    write_string(&mut body, &found.app_id);
    body.extend_from_slice(b",\"site_id\":");
    write_string(&mut body, &found.site_id);
    write_details(&mut body, &found.document, &found.app_id, instance.as_str()).map_err(Error::Document)?;
    body.push(b'}');
    Ok(Answer::json(body, claim))
}
