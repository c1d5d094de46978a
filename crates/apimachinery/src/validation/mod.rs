//! Rules for names, labels and metadata (upstream's `util/validation`, `api/validation`, `apis/meta/v1/validation`), with
//! upstream's messages.

mod names;
mod object_meta;
mod options;

pub use names::{
    NameFn, http_header_name, inclusive_range_error, is_c_identifier, is_config_map_key, is_dns1035_label, is_dns1123_label,
    is_dns1123_subdomain, is_dns1123_subdomain_with_underscore, is_domain_prefixed_path, is_env_var_name,
    is_fully_qualified_domain_name, is_fully_qualified_name, is_label_value, is_path_segment_name, is_path_segment_prefix,
    is_percent, is_port_name, is_port_number, is_qualified_name, is_relaxed_env_var_name, is_wildcard_dns1123_subdomain,
    max_len_error, name_is_dns_label, name_is_dns_subdomain, name_is_dns1035_label, name_is_ip, name_is_path_segment,
};
pub use object_meta::{
    ANNOTATIONS_SIZE_MAX_BYTES, FIELD_IMMUTABLE, validate_annotations, validate_immutable, validate_label_name,
    validate_label_selector, validate_labels, validate_non_negative, validate_object_meta, validate_object_meta_update,
    validate_owner_references,
};
pub use options::{validate_dry_run, validate_field_manager, validate_field_validation, validate_propagation_policy};
