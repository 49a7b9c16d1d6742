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

/// The names, by kind: see the head of the file.
const TABLE: &str = include_str!("others.tsv");

/// The rows of the table: kind, whose, names.
fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (kind, rest) = line.split_once('\t')?;
        let (whose, names) = rest.split_once('\t')?;
        Some((kind, whose, names))
    })
}

/// Whose a directive of this name is, if it is one that is known.
pub fn owner(name: &str) -> Option<Owner> {
    let fits = |pattern: &str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(start)) => name.starts_with(start),
        _ => name == pattern,
    };
    rows().find_map(|(kind, whose, names)| {
        let owner = match kind {
            "other" => Owner::Other(whose),
            "optional" => Owner::Optional(whose),
            "commercial" => Owner::Commercial,
            "gone" => Owner::Gone(whose),
            _ => return None,
        };
        names.split(' ').any(fits).then_some(owner)
    })
}

/// Whether the body of this directive is a program in Lua.
pub fn has_lua_body(name: &[u8]) -> bool {
    name.ends_with(b"_by_lua_block")
}

/// Whether nginx has a variable of this name.
pub fn is_variable(name: &str) -> bool {
    let fits = |known: &str| if known.ends_with('_') { name.starts_with(known) } else { name == known };
    rows().any(|(kind, _, names)| kind == "variables" && names.split(' ').any(fits))
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
    let example = rows().find(|(kind, file, _)| *kind == "file" && *file == name).map(|(.., directive)| directive);
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
