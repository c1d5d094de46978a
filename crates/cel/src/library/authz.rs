//! Asking for someone's rights (upstream's `library/authz.go`).

use std::sync::Arc;

use apimachinery::validation;

use crate::authorizer::{GroupCheck, PathCheck, ResourceCheck};
use crate::eval::{EvalError, Evaluated};
use crate::value::{Extension, Val};

pub(super) const TABLE: &str = "
path authorizer_path Authorizer.(string) -> PathCheck
group authorizer_group Authorizer.(string) -> GroupCheck
serviceAccount authorizer_serviceaccount Authorizer.(string, string) -> Authorizer
resource groupcheck_resource GroupCheck.(string) -> ResourceCheck
subresource resourcecheck_subresource ResourceCheck.(string) -> ResourceCheck
namespace resourcecheck_namespace ResourceCheck.(string) -> ResourceCheck
name resourcecheck_name ResourceCheck.(string) -> ResourceCheck
check pathcheck_check PathCheck.(string) -> Decision
check resourcecheck_check ResourceCheck.(string) -> Decision
errored decision_errored Decision.() -> bool
error decision_error Decision.() -> string
allowed decision_allowed Decision.() -> bool
reason decision_reason Decision.() -> string
";

pub(super) const SELECTORS: &str = "
fieldSelector authorizer_fieldselector ResourceCheck.(string) -> ResourceCheck
labelSelector authorizer_labelselector ResourceCheck.(string) -> ResourceCheck
";

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    let [Val::Extension(target), rest @ ..] = args else { return Err(EvalError::no_overload()) };
    let (first, second) = (rest.first().and_then(Val::as_str), rest.get(1).and_then(Val::as_str));
    let value = match (target, function, first, second) {
        (Extension::Authorizer(subject), "path", Some(path), None) => {
            not_empty("path", path)?;
            Extension::PathCheck(Arc::new(PathCheck { subject: subject.clone(), path: path.to_owned() }))
        }
        (Extension::Authorizer(subject), "group", Some(group), None) => {
            Extension::GroupCheck(Arc::new(GroupCheck { subject: subject.clone(), group: group.to_owned() }))
        }
        (Extension::Authorizer(subject), "serviceAccount", Some(namespace), Some(name)) => {
            if !validation::name_is_dns_subdomain(name, false).is_empty() {
                return Err(EvalError::failed("Invalid service account name"));
            }
            if !validation::is_dns1123_label(namespace).is_empty() {
                return Err(EvalError::failed("Invalid service account namespace"));
            }
            Extension::Authorizer(Arc::new(subject.service_account(namespace, name)))
        }
        (Extension::GroupCheck(group), "resource", Some(resource), None) => {
            not_empty("resource", resource)?;
            Extension::ResourceCheck(Arc::new(ResourceCheck {
                subject: group.subject.clone(),
                group: group.group.clone(),
                resource: resource.to_owned(),
                subresource: String::new(),
                namespace: String::new(),
                name: String::new(),
                field_selector: String::new(),
                label_selector: String::new(),
            }))
        }
        (Extension::PathCheck(check), "check", Some(verb), None) => Extension::Decision(Arc::new(check.check(verb))),
        (Extension::ResourceCheck(check), "check", Some(verb), None) => Extension::Decision(Arc::new(check.check(verb))),
        (Extension::ResourceCheck(check), part, Some(text), None) => refined(check, part, text)?,
        (Extension::Decision(decision), part, None, None) => {
            return Ok(match part {
                "errored" => Val::Bool(decision.error.is_some()),
                "error" => Val::from(decision.error.as_deref().unwrap_or_default()),
                "allowed" => Val::Bool(decision.allowed),
                "reason" => Val::from(decision.reason.as_str()),
                _ => return Err(EvalError::no_overload()),
            });
        }
        _ => return Err(EvalError::no_overload()),
    };
    Ok(value.into())
}

fn not_empty(what: &str, text: &str) -> Result<(), EvalError> {
    match text.trim().is_empty() {
        true => Err(EvalError::failed(format!("{what} must not be empty"))),
        false => Ok(()),
    }
}

fn refined(check: &ResourceCheck, part: &str, text: &str) -> Result<Extension, EvalError> {
    let mut check = check.clone();
    let place = match part {
        "subresource" => &mut check.subresource,
        "namespace" => &mut check.namespace,
        "name" => &mut check.name,
        "fieldSelector" => &mut check.field_selector,
        "labelSelector" => &mut check.label_selector,
        _ => return Err(EvalError::no_overload()),
    };
    text.clone_into(place);
    Ok(Extension::ResourceCheck(Arc::new(check)))
}
