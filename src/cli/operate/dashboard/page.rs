//! The files of the page.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The content type of scripts.
pub(super) const SCRIPT: &str = "text/javascript; charset=utf-8";

/// In place of the service worker of another site that was at this port: it removes itself and what the site has
/// cached, and has its tabs open their address again.
pub(super) const LAST_WORKER: &str = "\
addEventListener('install', () => skipWaiting());
addEventListener('activate', (event) => event.waitUntil((async () => {
  for (const name of await caches.keys()) await caches.delete(name);
  await registration.unregister();
  for (const tab of await clients.matchAll({ type: 'window', includeUncontrolled: true })) tab.navigate(tab.url);
})()));
";

/// A file of the page.
#[derive(Debug)]
pub(super) struct PageFile {
    pub(super) path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) text: &'static str,
}

/// All files of the page.
pub(super) const FILES: [PageFile; 3] = [
    PageFile {
        path: "/",
        content_type: "text/html; charset=utf-8",
        text: include_str!("index.html"),
    },
    PageFile {
        path: "/page.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("page.css"),
    },
    PageFile {
        path: "/page.js",
        content_type: SCRIPT,
        text: include_str!("page.js"),
    },
];

impl PageFile {
    /// The text in a run of the command: it names the other files by addresses that no cache knows.
    pub(super) fn of_run(&self, run: &str) -> String {
        let text = self
            .text
            .replace("=\"/page.css\"", &format!("=\"/page.css?{run}\""));
        text.replace("=\"/page.js\"", &format!("=\"/page.js?{run}\""))
    }

    /// The value of `ETag`: another one for another content.
    pub(super) fn tag(&self) -> String {
        let hash = digest(&SHA256, self.text.as_bytes());
        format!("\"{}\"", URL_SAFE_NO_PAD.encode(hash))
    }
}

/// The page that exchanges the secret: it leads on to the page itself. The key is behind `#`, which browsers send
/// nowhere.
pub(super) fn entrance(key: &str, run: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>tidegate</title>\
         <meta http-equiv=\"refresh\" content=\"0; url=/?{run}#key={key}\">\
         <p><a href=\"/?{run}#key={key}\">Open the dashboard</a></p></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_tags_of_their_own_and_nothing_inline() {
        let tags: Vec<String> = FILES.iter().map(PageFile::tag).collect();
        assert!(tags.iter().all(|tag| tag.len() == 45), "{tags:?}");
        assert!(tags[0] != tags[1] && tags[1] != tags[2]);
        let of_run = FILES[0].of_run("abc");
        assert!(of_run.contains("\"/page.js?abc\"") && of_run.contains("\"/page.css?abc\""));
        // What its policy would block, and what would put text of strangers into the page as HTML.
        let [html, css, js] = &FILES;
        for part in [
            "<style",
            "style=",
            " onclick",
            "javascript:",
            "src=\"http",
            "href=\"http",
        ] {
            assert!(!html.text.contains(part), "{part}");
        }
        for part in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
        ] {
            assert!(!js.text.contains(part), "{part}");
        }
        assert!(!css.text.contains("url(") && !css.text.contains("@import"));
    }
}
