//! Who is this: TokenReview and SelfSubjectReview.

use apimachinery::{Status, Value};
use k8s_openapi::api::authentication::v1 as api;

use super::{decode, encode};
use crate::auth::UserInfo;
use crate::http::RequestContext;
use crate::server::ApiServer;

fn user_info(user: &UserInfo) -> api::UserInfo {
    api::UserInfo {
        username: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()).filter(|groups| !groups.is_empty()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
    }
}

pub(super) fn self_subject_review(context: &RequestContext, object: &Value) -> Result<Value, Status> {
    let _: api::SelfSubjectReview = decode(object)?;
    // The answer is an object of its own.
    let status = api::SelfSubjectReviewStatus { user_info: Some(user_info(&context.user)) };
    let review = api::SelfSubjectReview { status: Some(status), ..Default::default() };
    let mut object = encode(&review)?;
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default();
    object.meta_mut().set_creation_timestamp(&now.to_string());
    Ok(object)
}

pub(super) async fn token_review(server: &ApiServer, object: &Value) -> Result<Value, Status> {
    let mut review: api::TokenReview = decode(object)?;
    let token = review.spec.token.clone().unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = review.spec.audiences.clone().unwrap_or_default();
    let mut status = api::TokenReviewStatus::default();
    match server.access().authenticate_token(&token, &audiences).await {
        Ok(accepted) => {
            status.authenticated = Some(true);
            status.user = Some(user_info(&accepted.user));
            status.audiences = Some(accepted.audiences).filter(|a| !a.is_empty());
        }
        Err(error) => {
            status.user = Some(api::UserInfo::default());
            status.error = Some(error.to_string());
        }
    }
    review.status = Some(status);
    encode(&review)
}
