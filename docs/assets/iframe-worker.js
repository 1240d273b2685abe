// A page that is opened from the disk may start no workers, so search runs in a frame that behaves like one.
if (location.protocol === "file:") {
  const load = function (...addresses) {
    return addresses.reduce(
      (before, address) =>
        before.then(
          () =>
            new Promise((loaded) => {
              const script = document.createElement("script");
              script.src = address;
              script.onload = loaded;
              document.body.appendChild(script);
            }),
        ),
      Promise.resolve(),
    );
  };
  window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      // Only now: the empty page that a frame begins with has loaded, too.
      this.ready = new Promise((loaded) => (this.frame.onload = loaded));
      const within = this.frame.contentWindow;
      within.postMessage_ = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      within.document.open();
      within.document.write(
        `<html><body><script>postMessage = window.postMessage_; importScripts = ${load}</script>` +
          `<script src="${address}"></script></body></html>`,
      );
      within.document.close();
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
