//! What an error of the API means to a controller.

use kube::core::response::Status;

fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.reason == "NotFound" || status.code == 404)
}

pub(crate) fn is_already_exists(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.reason == "AlreadyExists")
}

pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.reason == "Conflict")
}

pub(crate) fn is_invalid(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.reason == "Invalid")
}

/// The namespace is being deleted: nothing can be created in it any more.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    status(error)
        .and_then(|status| status.details.as_ref())
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
}

/// The server's own words, as users see them in events and conditions.
pub(crate) fn message(error: &kube::Error) -> String {
    match status(error) {
        Some(status) => status.message.clone(),
        None => error.to_string(),
    }
}

/// Success, or the object is gone already.
pub(crate) fn ignore_not_found<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}
