//! nginx's command line, flag by flag.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Program;

/// What `-s` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalName {
    /// Fast shutdown.
    Stop,
    /// Graceful shutdown.
    Quit,
    /// Reopen log files.
    Reopen,
    /// Reload the configuration.
    Reload,
}

/// The command line's meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-?`, `-h`
    pub help: bool,
    /// `-v`
    pub version: bool,
    /// `-V`
    pub version_in_full: bool,
    /// `-t`, `-T`
    pub test: bool,
    /// `-T`
    pub dump: bool,
    /// `-q`
    pub quiet: bool,
    /// `-s`
    pub signal: Option<SignalName>,
    /// `-p`
    pub prefix: Option<PathBuf>,
    /// `-e`
    pub error_log: Option<PathBuf>,
    /// `-c`
    pub configuration: Option<PathBuf>,
    /// `-g`, all of them
    pub globals: Option<String>,
}

/// Reads the arguments. Flags without a value may be written together (`-tq`), values may be attached (`-p/dir`).
///
/// # Errors
/// nginx's words for what is wrong.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Options, String> {
    use lexopt::Arg::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_args(args);
    let mut options = Options::default();
    loop {
        match parser.next().map_err(|error| format!("invalid option: {error}"))? {
            None => return Ok(options),
            Some(Short('?' | 'h')) => options.help = true,
            Some(Short('v')) => options.version = true,
            Some(Short('V')) => options.version_in_full = true,
            Some(Short('t')) => options.test = true,
            Some(Short('T')) => (options.test, options.dump) = (true, true),
            Some(Short('q')) => options.quiet = true,
            Some(Short('p')) => {
                options.prefix = Some(parser.value().map_err(|_| "option \"-p\" requires directory name")?.into())
            }
            Some(Short('e')) => {
                options.error_log = Some(parser.value().map_err(|_| "option \"-e\" requires file name")?.into())
            }
            Some(Short('c')) => {
                options.configuration = Some(parser.value().map_err(|_| "option \"-c\" requires file name")?.into())
            }
            Some(Short('g')) => {
                let text = parser.value().map_err(|_| "option \"-g\" requires parameter")?;
                let globals = options.globals.get_or_insert_default();
                globals.push_str(&text.to_string_lossy());
                // nginx takes the last directive without its semicolon.
                if !globals.trim_end().ends_with(['}', ';']) {
                    globals.push(';');
                }
            }
            Some(Short('s')) => {
                let name = parser.value().map_err(|_| "option \"-s\" requires parameter")?;
                options.signal = Some(match name.to_str() {
                    Some("stop") => SignalName::Stop,
                    Some("quit") => SignalName::Quit,
                    Some("reopen") => SignalName::Reopen,
                    Some("reload") => SignalName::Reload,
                    _ => return Err(format!("invalid option: \"-s {}\"", name.to_string_lossy())),
                });
            }
            Some(Short(flag)) => return Err(format!("invalid option: \"{flag}\"")),
            Some(Long("help")) => return Err("invalid option: \"--help\", the help is \"-h\"".into()),
            Some(Long(name)) => return Err(format!("invalid option: \"--{name}\"")),
            Some(Value(word)) => return Err(format!("invalid option: \"{}\"", word.to_string_lossy())),
        }
    }
}

/// Prints the version, the build or the help to the standard error stream, where nginx prints them.
pub fn describe(program: &Program, options: &Options) {
    eprintln!("{} version: {}/{}", program.name, program.name, program.version);
    if options.help {
        eprintln!("{}", HELP.replace("%NAME%", program.name));
    }
    if options.version_in_full {
        eprintln!("nginx version: nginx/{} ({} {})", program.nginx_version, program.name, program.version);
        eprintln!("built with rustls and AWS-LC");
        eprintln!("TLS SNI support enabled");
        eprintln!("configure arguments: {}", program.arguments);
    }
}

const HELP: &str = "Usage: %NAME% [-?hvVtTq] [-s signal] [-p prefix] [-e filename] [-c filename] [-g directives]

Options:
  -?,-h         : this help
  -v            : show version and exit
  -V            : show version and configure options then exit
  -t            : test configuration and exit
  -T            : test configuration, dump it and exit
  -q            : suppress non-error messages during configuration testing
  -s signal     : send signal to a master process: stop, quit, reopen, reload
  -p prefix     : set prefix path
  -e filename   : set error log file (default: stderr; of a daemon /var/log/nginx/error.log, or with -p logs/error.log)
  -c filename   : set configuration file (default: /etc/nginx/nginx.conf)
  -g directives : set global directives out of configuration file";

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Options, String> {
        parse(args.iter().map(OsString::from))
    }

    #[test]
    fn flags_and_values_in_nginx_forms() {
        let options = run(&["-tq", "-p/tmp/x", "-c", "a.conf", "-g", "daemon off", "-g", "user nobody;"]).unwrap();
        assert!(options.test && options.quiet && !options.dump);
        assert_eq!(options.prefix, Some("/tmp/x".into()));
        assert_eq!(options.globals.as_deref(), Some("daemon off;user nobody;"));
        assert_eq!(run(&["-s", "reload"]).unwrap().signal, Some(SignalName::Reload));
    }

    #[test]
    fn mistakes_are_named() {
        for (args, expected) in [
            (&["-x"][..], "invalid option: \"x\""),
            (&["-s", "jump"], "invalid option: \"-s jump\""),
            (&["-p"], "option \"-p\" requires directory name"),
            (&["--help"], "invalid option: \"--help\", the help is \"-h\""),
            (&["start"], "invalid option: \"start\""),
        ] {
            assert_eq!(run(args).unwrap_err(), expected);
        }
    }
}
