//! What is built in, in the form of nginx's `configure arguments`: tools read it to learn what they may use.

/// nginx's arguments for what this binary has, and `--without-` for what nginx has by default and we lack.
pub const CONFIGURE: &str = "--prefix=/etc/nginx --conf-path=/etc/nginx/nginx.conf --error-log-path=/var/log/nginx/error.log --pid-path=/run/nginx.pid --with-debug \
    --with-http_ssl_module --with-http_realip_module --with-http_auth_request_module --with-http_stub_status_module --with-http_v2_module --with-stream --with-stream_ssl_module --with-mail --with-mail_ssl_module \
    --without-http_charset_module --without-http_gzip_module --without-http_ssi_module --without-http_userid_module \
    --without-http_auth_basic_module --without-http_autoindex_module \
    --without-http_referer_module --without-http_fastcgi_module \
    --without-http_uwsgi_module --without-http_scgi_module --without-http_grpc_module --without-http_memcached_module \
    --without-http_empty_gif_module --without-http_browser_module \
    --without-http_upstream_hash_module --without-http_upstream_random_module \
    --without-http_upstream_least_time_module --without-http_upstream_sticky_module --without-http-cache \
    --without-mail_pop3_module --without-mail_smtp_module \
    --without-stream_pass_module --without-stream_upstream_hash_module --without-stream_upstream_random_module \
    --without-stream_upstream_least_time_module";
