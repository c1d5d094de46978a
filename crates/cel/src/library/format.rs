//! Named formats (upstream's `library/format.go`).

use std::sync::Arc;

use apimachinery::url::Url;
use apimachinery::validation;

use crate::eval::{EvalError, Evaluated};
use crate::value::{Extension, Val};

pub(super) const TABLE: &str = "
validate format-validate Format.(string) -> optional(list(string))
format.named format-named (string) -> optional(Format)
format.dns1123Label format.dns1123Label () -> Format
format.dns1123Subdomain format.dns1123Subdomain () -> Format
format.dns1035Label format.dns1035Label () -> Format
format.qualifiedName format.qualifiedName () -> Format
format.dns1123LabelPrefix format.dns1123LabelPrefix () -> Format
format.dns1123SubdomainPrefix format.dns1123SubdomainPrefix () -> Format
format.dns1035LabelPrefix format.dns1035LabelPrefix () -> Format
format.labelValue format.labelValue () -> Format
format.uri format.uri () -> Format
format.uuid format.uuid () -> Format
format.byte format.byte () -> Format
format.date format.date () -> Format
format.datetime format.datetime () -> Format
";

/// A format of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A label of a DNS name (RFC 1123).
    Dns1123Label,
    /// A DNS name (RFC 1123).
    Dns1123Subdomain,
    /// A label of a DNS name (RFC 1035).
    Dns1035Label,
    /// A name with an optional domain before it.
    QualifiedName,
    /// What a generated label may start with.
    Dns1123LabelPrefix,
    /// What a generated name may start with.
    Dns1123SubdomainPrefix,
    /// What a generated label (RFC 1035) may start with.
    Dns1035LabelPrefix,
    /// The value of a label.
    LabelValue,
    /// A URI.
    Uri,
    /// A UUID.
    Uuid,
    /// Base64.
    Byte,
    /// A date.
    Date,
    /// A date and a time.
    DateTime,
}

const NAMES: [(&str, Format, u64); 13] = [
    ("dns1123Label", Format::Dns1123Label, 30),
    ("dns1123Subdomain", Format::Dns1123Subdomain, 60),
    ("dns1035Label", Format::Dns1035Label, 30),
    ("qualifiedName", Format::QualifiedName, 60),
    ("dns1123LabelPrefix", Format::Dns1123LabelPrefix, 30),
    ("dns1123SubdomainPrefix", Format::Dns1123SubdomainPrefix, 60),
    ("dns1035LabelPrefix", Format::Dns1035LabelPrefix, 30),
    ("labelValue", Format::LabelValue, 40),
    ("uri", Format::Uri, 1103),
    ("uuid", Format::Uuid, 70),
    ("byte", Format::Byte, 84),
    ("date", Format::Date, 71),
    ("datetime", Format::DateTime, 71),
];

impl Format {
    /// The format of this name.
    fn named(name: &str) -> Option<Format> {
        NAMES.iter().find(|(known, ..)| *known == name).map(|(_, format, _)| *format)
    }

    /// How long upstream takes the regular expression for it to be, for costs.
    pub(crate) fn regex_size(self) -> u64 {
        NAMES.iter().find(|(_, format, _)| *format == self).map_or(0, |(_, _, size)| *size)
    }

    fn validate(self, text: &str) -> Vec<String> {
        let when = |fits: bool, why: &str| if fits { Vec::new() } else { vec![why.to_owned()] };
        match self {
            Format::Dns1123Label => validation::is_dns1123_label(text),
            Format::Dns1123Subdomain => validation::is_dns1123_subdomain(text),
            Format::Dns1035Label => validation::is_dns1035_label(text),
            Format::QualifiedName => validation::is_qualified_name(text),
            Format::Dns1123LabelPrefix => validation::name_is_dns_label(text, true),
            Format::Dns1123SubdomainPrefix => validation::name_is_dns_subdomain(text, true),
            Format::Dns1035LabelPrefix => validation::name_is_dns1035_label(text, true),
            Format::LabelValue => validation::is_label_value(text),
            Format::Uri => Url::parse_request(text).err().map(|error| error.to_string()).into_iter().collect(),
            Format::Uuid => when(is_uuid(text), "does not match the UUID format"),
            Format::Byte => when(is_base64(text), "invalid base64"),
            Format::Date => when(text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10, "invalid date"),
            Format::DateTime => when(apimachinery::time::parse_time(text).is_ok(), "invalid datetime"),
        }
    }
}

/// Hexadecimal digits in groups; the hyphens may be missing, as in strfmt's pattern.
fn is_uuid(text: &str) -> bool {
    let mut rest = text;
    for (i, len) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        match rest.get(..len) {
            Some(group) if group.bytes().all(|b| b.is_ascii_hexdigit()) => rest = &rest[len..],
            _ => return false,
        }
    }
    rest.is_empty()
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    match (function, args) {
        ("validate", [Val::Extension(Extension::Format(format)), Val::String(text)]) => {
            let errors = format.validate(text);
            let errors: Vec<Val> = errors.iter().map(|error| Val::from(error.as_str())).collect();
            Ok(Val::Optional((!errors.is_empty()).then(|| Arc::new(errors.into()))))
        }
        ("format.named", [Val::String(name)]) => {
            Ok(Val::Optional(Format::named(name).map(|format| Arc::new(Extension::Format(format).into()))))
        }
        (function, []) => {
            let format = function.strip_prefix("format.").and_then(Format::named);
            format.map(|format| Extension::Format(format).into()).ok_or_else(EvalError::no_overload)
        }
        _ => Err(EvalError::no_overload()),
    }
}
