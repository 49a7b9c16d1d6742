//! Directives and variables that are not ours: of modules by others, of nginx's own optional modules, and of old
//! versions, so that an error can say what would be missing.

/// Whose a directive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A module by others.
    Other(&'static str),
    /// A module of nginx that has to be asked for when nginx is built.
    Optional(&'static str),
    /// The commercial nginx.
    Commercial,
    /// An old nginx, and what has taken its place.
    Gone(&'static str),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Other(module) => {
                write!(f, "it is of the third-party module {module}, which this binary does not have")
            }
            Owner::Optional(module) => {
                write!(f, "it is of nginx's optional module {module}, which this binary does not have")
            }
            Owner::Commercial => f.write_str("it is of the commercial nginx"),
            Owner::Gone(instead) => write!(f, "nginx has it no more, {instead}"),
        }
    }
}

/// Directives by name; a star stands for any beginning or end.
const DIRECTIVES: &[(Owner, &[&str])] = &[
    (Owner::Other("ngx_brotli"), &["brotli", "brotli_*"]),
    (Owner::Other("zstd-nginx-module"), &["zstd", "zstd_*"]),
    (Owner::Other("headers-more-nginx-module"), &["more_set_*", "more_clear_*"]),
    (Owner::Other("lua-nginx-module"), &["*_by_lua", "*_by_lua_block", "*_by_lua_file", "lua_*"]),
    (Owner::Other("ngx_http_geoip2_module"), &["geoip2", "geoip2_*"]),
    (Owner::Other("nginx-module-vts"), &["vhost_traffic_status", "vhost_traffic_status_*"]),
    (Owner::Other("nginx-module-sts"), &["stream_server_traffic_status", "stream_server_traffic_status_*"]),
    (
        Owner::Other("set-misc-nginx-module"),
        &[
            "set_md5",
            "set_sha1",
            "set_crc32*",
            "set_hmac_*",
            "set_escape_uri",
            "set_unescape_uri",
            "set_if_empty",
            "set_random",
            "set_secure_random_*",
            "set_rotate",
            "set_quote_*",
            "set_hashed_upstream",
            "set_encode_*",
            "set_decode_*",
            "set_base32_*",
            "set_local_today",
            "set_formatted_*",
            "set_misc_*",
        ],
    ),
    (
        Owner::Other("encrypted-session-nginx-module"),
        &["encrypted_session_*", "set_encrypt_session", "set_decrypt_session"],
    ),
    (Owner::Other("form-input-nginx-module"), &["set_form_input", "set_form_input_multi"]),
    (Owner::Other("iconv-nginx-module"), &["iconv_*", "set_iconv"]),
    (Owner::Other("array-var-nginx-module"), &["array_*"]),
    (Owner::Other("echo-nginx-module"), &["echo", "echo_*"]),
    (Owner::Other("memc-nginx-module"), &["memc_*"]),
    (Owner::Other("redis2-nginx-module"), &["redis2_*"]),
    (Owner::Other("ngx_http_redis"), &["redis_*"]),
    (Owner::Other("srcache-nginx-module"), &["srcache_*"]),
    (Owner::Other("ngx_postgres"), &["postgres_*"]),
    (Owner::Other("drizzle-nginx-module"), &["drizzle_*"]),
    (Owner::Other("rds-json-nginx-module"), &["rds_json", "rds_json_*", "rds_csv", "rds_csv_*"]),
    (Owner::Other("ngx_cache_purge"), &["*_cache_purge", "cache_purge_response_type"]),
    (Owner::Other("ModSecurity-nginx"), &["modsecurity", "modsecurity_*", "ModSecurity*"]),
    (
        Owner::Other("naxsi"),
        &["SecRules*", "LearningMode", "CheckRule", "BasicRule", "MainRule", "DeniedUrl", "LibInjection*", "naxsi_*"],
    ),
    (Owner::Other("ngx_pagespeed"), &["pagespeed", "pagespeed_*", "ModPagespeed*"]),
    (Owner::Other("nginx-rtmp-module"), &["rtmp", "rtmp_*"]),
    (Owner::Other("nginx-dav-ext-module"), &["dav_ext_*"]),
    (Owner::Other("ngx-fancyindex"), &["fancyindex", "fancyindex_*"]),
    (Owner::Other("ngx_http_substitutions_filter_module"), &["subs_filter", "subs_filter_*"]),
    (Owner::Other("nginx-upsync-module"), &["upsync", "upsync_*"]),
    (Owner::Other("nginx_upstream_check_module"), &["check", "check_*"]),
    (Owner::Other("ngx_http_upstream_fair_module"), &["fair", "upstream_fair_*"]),
    (Owner::Other("ngx_upstream_jdomain"), &["jdomain", "jdomain_*"]),
    (Owner::Other("Passenger"), &["passenger_*", "passenger", "rails_*", "rack_*", "union_station_*"]),
    (
        Owner::Other("nginx-upload-module"),
        &[
            "upload_pass*",
            "upload_store*",
            "upload_set_*",
            "upload_aggregate_*",
            "upload_limit_*",
            "upload_max_*",
            "upload_cleanup",
            "upload_buffer_size",
            "upload_resumable",
            "upload_state_store",
            "upload_tame_arrays",
            "upload_add_header",
        ],
    ),
    (
        Owner::Other("nginx-upload-progress-module"),
        &["upload_progress", "upload_progress_*", "track_uploads", "report_uploads"],
    ),
    (Owner::Other("nginx-push-stream-module"), &["push_stream_*"]),
    (Owner::Other("nchan"), &["nchan_*", "push_publisher", "push_subscriber", "push_store_messages"]),
    (Owner::Other("ngx_http_auth_pam_module"), &["auth_pam", "auth_pam_*"]),
    (Owner::Other("nginx-auth-ldap"), &["auth_ldap", "auth_ldap_*", "ldap_server"]),
    (Owner::Other("spnego-http-auth-nginx-module"), &["auth_gss", "auth_gss_*"]),
    (Owner::Other("ngx_http_auth_digest"), &["auth_digest", "auth_digest_*"]),
    (Owner::Other("nginx-opentracing"), &["opentracing", "opentracing_*"]),
    (Owner::Other("nginx-otel"), &["otel_*", "opentelemetry", "opentelemetry_*"]),
    (Owner::Other("testcookie-nginx-module"), &["testcookie", "testcookie_*"]),
    (Owner::Other("nginx_cookie_flag_module"), &["set_cookie_flag"]),
    (Owner::Other("nginx-http-concat"), &["concat", "concat_*"]),
    (Owner::Other("nginx-http-footer-filter"), &["footer", "footer_types", "trim", "trim_*"]),
    (Owner::Other("nginx-eval-module"), &["eval", "eval_*"]),
    (Owner::Other("nginx-vod-module"), &["vod", "vod_*"]),
    (Owner::Other("nginx-module-cookie-limit-req"), &["cookie_limit_req*"]),
    (Owner::Other("ngx_http_accounting_module"), &["http_accounting", "http_accounting_*"]),
    (Owner::Other("nginx-acme"), &["acme_*"]),
    (Owner::Other("nginx-slowfs-cache"), &["slowfs_*"]),
    (Owner::Other("ngx_http_upstream_dynamic"), &["dynamic_upstream", "dyups_*"]),
    (Owner::Other("ngx_devel_kit"), &["ndk_*"]),
    (Owner::Other("PHP for nginx"), &["php_ini_path", "php_*"]),
    (Owner::Optional("ngx_http_js_module"), &["js_*"]),
    (Owner::Optional("ngx_http_image_filter_module"), &["image_filter", "image_filter_*"]),
    (Owner::Optional("ngx_http_xslt_filter_module"), &["xslt_*", "xml_entities"]),
    (Owner::Optional("ngx_http_perl_module"), &["perl", "perl_*"]),
    (Owner::Optional("ngx_http_geoip_module"), &["geoip_*"]),
    (Owner::Optional("ngx_google_perftools_module"), &["google_perftools_profiles"]),
    (
        Owner::Commercial,
        &[
            "api",
            "auth_jwt",
            "auth_jwt_*",
            "f4f",
            "f4f_*",
            "health_check",
            "health_check_*",
            "hls",
            "hls_*",
            "keyval",
            "keyval_zone",
            "match",
            "mqtt",
            "mqtt_*",
            "ntlm",
            "queue",
            "session_log",
            "session_log_*",
            "state",
            "status",
            "status_format",
            "status_zone",
            "zone_sync",
            "zone_sync_*",
            "upstream_conf",
            "auth_oidc",
            "oidc_provider",
            "internal_redirect",
            "num_map",
            "proxy_protocol_tlv*",
        ],
    ),
    (Owner::Gone("its place is taken by the parameter \"ssl\" of \"listen\""), &["ssl"]),
    (Owner::Gone("SPDY was followed by HTTP/2"), &["spdy_*"]),
    (Owner::Gone("its place is taken by \"limit_conn_zone\""), &["limit_zone"]),
    (Owner::Gone("its place is taken by \"merge_slashes\""), &["post_accept_timeout"]),
    (
        Owner::Gone("HTTP/2 settings have become general ones"),
        &[
            "http2_idle_timeout",
            "http2_max_field_size",
            "http2_max_header_size",
            "http2_max_requests",
            "http2_recv_timeout",
        ],
    ),
    (Owner::Gone("servers no longer push"), &["http2_push", "http2_push_preload"]),
];

/// Whose a directive of this name is, if it is one that is known.
pub fn owner(name: &str) -> Option<Owner> {
    let fits = |pattern: &&str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(start)) => name.starts_with(start),
        _ => name == *pattern,
    };
    DIRECTIVES.iter().find(|(_, patterns)| patterns.iter().any(fits)).map(|(owner, _)| *owner)
}

/// Whether the body of this directive is a program in Lua.
pub fn has_lua_body(name: &[u8]) -> bool {
    name.ends_with(b"_by_lua_block")
}

/// Variables of nginx that may be missing here; those that end in an underscore are the beginnings of families.
const VARIABLES: &[&str] = &[
    "ancient_browser",
    "date_gmt",
    "date_local",
    "fastcgi_path_info",
    "fastcgi_script_name",
    "geoip_",
    "gzip_ratio",
    "http2",
    "http3",
    "invalid_referer",
    "jwt_",
    "limit_rate",
    "memcached_key",
    "modern_browser",
    "msie",
    "proxy_add_via",
    "proxy_protocol_",
    "realip_remote_addr",
    "realip_remote_port",
    "realpath_root",
    "request_body_file",
    "request_id",
    "secure_link",
    "secure_link_expires",
    "slice_range",
    "ssl_ciphers",
    "ssl_client_",
    "ssl_curve",
    "ssl_curves",
    "ssl_early_data",
    "ssl_ech_",
    "ssl_preread_",
    "ssl_session_id",
    "ssl_sigalg",
    "ssl_sigalgs",
    "tcpinfo_",
    "uid_got",
    "uid_reset",
    "uid_set",
    "upstream_cache_",
    "upstream_last_server_name",
    "upstream_trailer_",
];

/// Whether nginx has a variable of this name.
pub fn is_variable(name: &str) -> bool {
    VARIABLES.iter().any(|known| if known.ends_with('_') { name.starts_with(known) } else { name == *known })
}

/// The modules of nginx that are built in and that its packages load with `load_module`, and the beginnings of the
/// names of those that are not.
const BUILT_IN: &[&str] = &["ngx_stream_module", "ngx_mail_module"];

/// What `load_module` is told of a file: `None` for one whose module is built in.
pub fn missing_module(file: &str) -> Option<String> {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = name.strip_suffix(".so").unwrap_or(name);
    if BUILT_IN.contains(&name) {
        return None;
    }
    /// File names that do not tell what their module is known by.
    const KNOWN: &[(&str, &str)] = &[
        ("ngx_http_auth_pam_module", "auth_pam"),
        ("ngx_http_brotli_filter_module", "brotli"),
        ("ngx_http_brotli_static_module", "brotli_static"),
        ("ngx_http_cache_purge_module", "proxy_cache_purge"),
        ("ngx_http_dav_ext_module", "dav_ext_methods"),
        ("ngx_http_echo_module", "echo"),
        ("ngx_http_fancyindex_module", "fancyindex"),
        ("ngx_http_geoip2_module", "geoip2"),
        ("ngx_stream_geoip2_module", "geoip2"),
        ("ngx_http_geoip_module", "geoip_country"),
        ("ngx_stream_geoip_module", "geoip_country"),
        ("ngx_http_headers_more_filter_module", "more_set_headers"),
        ("ngx_http_image_filter_module", "image_filter"),
        ("ngx_http_js_module", "js_import"),
        ("ngx_stream_js_module", "js_import"),
        ("ngx_http_lua_module", "lua_package_path"),
        ("ngx_stream_lua_module", "lua_package_path"),
        ("ngx_http_modsecurity_module", "modsecurity"),
        ("ngx_http_perl_module", "perl_modules"),
        ("ngx_http_subs_filter_module", "subs_filter"),
        ("ngx_http_uploadprogress_module", "upload_progress"),
        ("ngx_http_upstream_fair_module", "fair"),
        ("ngx_http_xslt_filter_module", "xslt_stylesheet"),
        ("ngx_nchan_module", "nchan_publisher"),
        ("ngx_rtmp_module", "rtmp"),
        ("ndk_http_module", "set_if_empty"),
        ("ngx_pagespeed", "pagespeed"),
        ("ngx_otel_module", "otel_trace"),
    ];
    let example = KNOWN.iter().find(|(file, _)| *file == name).map(|(_, directive)| *directive);
    Some(match example {
        Some(directive) => {
            format!("module \"{name}\" is not built in, its directives such as \"{directive}\" are refused")
        }
        None => format!("module \"{name}\" is not built in, its directives are refused"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_of_others_are_told_apart() {
        for (name, expected) in [
            ("brotli_comp_level", Some(Owner::Other("ngx_brotli"))),
            ("more_clear_headers", Some(Owner::Other("headers-more-nginx-module"))),
            ("content_by_lua_block", Some(Owner::Other("lua-nginx-module"))),
            ("set_by_lua_file", Some(Owner::Other("lua-nginx-module"))),
            ("lua_shared_dict", Some(Owner::Other("lua-nginx-module"))),
            ("js_content", Some(Owner::Optional("ngx_http_js_module"))),
            ("geoip2", Some(Owner::Other("ngx_http_geoip2_module"))),
            ("geoip_city", Some(Owner::Optional("ngx_http_geoip_module"))),
            ("vhost_traffic_status_zone", Some(Owner::Other("nginx-module-vts"))),
            ("set_md5", Some(Owner::Other("set-misc-nginx-module"))),
            ("echo", Some(Owner::Other("echo-nginx-module"))),
            ("fastcgi_cache_purge", Some(Owner::Other("ngx_cache_purge"))),
            ("status_zone", Some(Owner::Commercial)),
            ("set", None),
            ("proxy_pass", None),
            ("brotl", None),
        ] {
            assert_eq!(owner(name), expected, "{name}");
        }
        assert!(matches!(owner("ssl"), Some(Owner::Gone(_))));
    }

    #[test]
    fn modules_that_are_built_in_are_told_apart() {
        for (file, missing) in [
            ("modules/ngx_stream_module.so", false),
            ("/usr/lib/nginx/modules/ngx_mail_module.so", false),
            ("modules/ngx_http_lua_module.so", true),
            ("modules/ngx_http_image_filter_module.so", true),
            ("modules/anything.so", true),
        ] {
            assert_eq!(missing_module(file).is_some(), missing, "{file}");
        }
    }
}
