//! Names in certificates as Go's crypto/x509 reads them, because that is whom upstream's servers see: of several common names the last
//! counts, and organizations are read from every kind of text that Go knows, the old ones too. Otherwise a request could hide a group
//! from us that others see in the certificate.

use x509_parser::asn1_rs::Tag;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Whom a name is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// May be empty.
    pub common_name: String,
    /// In their order.
    pub organizations: Vec<String>,
}

impl Names {
    /// Reads a subject.
    pub fn of(name: &X509Name<'_>) -> Self {
        Self {
            common_name: name.iter_common_name().filter_map(text_of).last().unwrap_or_default(),
            organizations: name.iter_organization().filter_map(text_of).collect(),
        }
    }
}

/// What a part of a name says; `None` for what is no text to Go either.
pub fn text_of(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = attribute.attr_value();
    match value.tag() {
        // Latin-1, whatever T.61 says.
        Tag::T61String => Some(value.data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let units = value.data.chunks(2).map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?)));
            let text = String::from_utf16(&units.collect::<Option<Vec<u16>>>()?).ok()?;
            Some(text.strip_suffix('\0').map_or_else(|| text.clone(), str::to_owned))
        }
        _ => attribute.as_str().ok().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::string::{BmpString, TeletexString};
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    use super::*;

    fn read(organizations: Vec<DnValue>) -> Names {
        // One request for each, for a name holds a type once here.
        let mut names = Names::default();
        for organization in organizations {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "ada");
            params.distinguished_name.push(DnType::OrganizationName, organization);
            let der = params.serialize_request(&KeyPair::generate().expect("a key")).expect("is signed");
            let (_, request) = X509CertificationRequest::from_der(der.der()).expect("is one");
            let one = Names::of(&request.certification_request_info.subject);
            names.common_name = one.common_name;
            names.organizations.extend(one.organizations);
        }
        names
    }

    #[test]
    fn no_kind_of_text_hides_a_group() {
        let group = "system:masters";
        let kinds = vec![
            DnValue::Utf8String(group.to_owned()),
            DnValue::TeletexString(TeletexString::try_from(group).expect("is text")),
            DnValue::BmpString(BmpString::try_from(group).expect("is text")),
        ];
        let names = read(kinds);
        assert_eq!((names.common_name.as_str(), names.organizations), ("ada", vec![group.to_owned(); 3]));
    }
}
