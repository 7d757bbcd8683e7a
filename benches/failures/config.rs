//! The configuration of each proxy, as its operators would set it up for endpoints that fail: health
//! checks every second (by a handshake, where the proxy has such checks), one second for a connection
//! and for a response, and one other endpoint tried.

use std::net::SocketAddr;
use std::path::Path;

use super::rig::peer::Peer;

pub(crate) fn config(
    peer: Peer,
    at: SocketAddr,
    endpoints: [SocketAddr; 3],
    folder: &Path,
) -> String {
    let [a, b, c] = endpoints;
    match peer {
        Peer::Tidegate | Peer::Baseline => format!(
            "[server]\nworkers = 2\nshutdown.grace = \"0s\"\n[listener.main]\nbind = [\"{at}\"]\n\
             [[route]]\nupstream = \"main\"\n\
             [upstream.main]\nendpoints = [\"{a}\", \"{b}\", \"{c}\"]\nretry_on = [\"timeout\"]\n\
             timeouts = {{ connect = \"1s\", handshake = \"1s\" }}\n\
             health = {{ websocket = {{}}, interval = \"1s\", timeout = \"1s\", fall = 2 }}\n\
             [upstream.main.ejection]\n"
        ),
        Peer::Haproxy => format!(
            "global\n nbthread 2\n maxconn 9000\ndefaults\n mode http\n timeout connect 1s\n\
             timeout client 1h\n timeout server 1s\n timeout tunnel 1h\n timeout check 1s\n\
             retries 1\n option redispatch 1\n retry-on conn-failure empty-response response-timeout\n\
             frontend front\n bind {at}\n default_backend back\n\
             backend back\n balance leastconn\n option httpchk\n\
             http-check send meth GET uri / ver HTTP/1.1 hdr Host localhost hdr Connection Upgrade \
             hdr Upgrade websocket hdr Sec-WebSocket-Version 13 \
             hdr Sec-WebSocket-Key dGhlIHNhbXBsZSBub25jZQ==\n http-check expect status 101\n\
             default-server check inter 1s fall 2 rise 2 observe layer4 error-limit 5 on-error mark-down\n\
             server a {a}\n server b {b}\n server c {c}\n"
        ),
        Peer::Nginx => format!(
            "worker_processes 1;\nmaster_process off;\nworker_rlimit_nofile 20000;\ndaemon off;\n\
             pid {0}/nginx.pid;\nerror_log {0}/error;\nevents {{ worker_connections 9000; }}\n\
             http {{ access_log off;\n upstream back {{ least_conn;\n\
             server {a} max_fails=2 fail_timeout=5s; server {b} max_fails=2 fail_timeout=5s;\n\
             server {c} max_fails=2 fail_timeout=5s; }}\n\
             server {{ listen {at} backlog=4096; location / {{ proxy_pass http://back;\n\
             proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection upgrade; proxy_connect_timeout 1s; proxy_read_timeout 1s;\n\
             proxy_next_upstream error timeout; proxy_next_upstream_tries 2; }} }} }}\n",
            folder.display()
        ),
        Peer::Sozu | Peer::Relay => unreachable!("they have no configuration here"),
    }
}
