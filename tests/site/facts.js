// What a page says about itself, for the tests: collected in one pass because each question costs a round trip.
function siteFacts() {
  const article = document.querySelector("article.bd-article") || document.body;
  const visible = (element) => {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    return style.visibility !== "hidden" && style.display !== "none" && box.width > 1 && box.height > 1;
  };

  const channel = (value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  };
  const parse = (text) => {
    const parts = (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    if (text.startsWith("color(")) parts.splice(0, 3, ...parts.slice(0, 3).map((part) => part * 255));
    return { rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1 };
  };
  const luminance = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  // Colours of all grounds from the page up to the element, laid over each other.
  const ground = (element) => {
    const stack = [];
    for (let node = element; node; node = node.parentElement) stack.push(parse(getComputedStyle(node).backgroundColor));
    return stack.reverse().reduce(
      (below, over) => below.map((value, i) => value * (1 - over.alpha) + over.rgb[i] * over.alpha),
      [255, 255, 255],
    );
  };
  const weak = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const judged = new Set();
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || judged.has(element)) continue;
    judged.add(element);
    if (element.closest("script, style, noscript, mjx-assistive-mml, dialog, .headerlink") || !visible(element)) continue;
    const style = getComputedStyle(element);
    const below = ground(element);
    const ink = parse(style.color);
    const colour = ink.rgb.map((value, i) => value * ink.alpha + below[i] * (1 - ink.alpha));
    const [low, high] = [luminance(colour), luminance(below)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    texts += 1;
    if (contrast < (large ? 3 : 4.5)) {
      weak.push(`${contrast.toFixed(2)} <${element.tagName.toLowerCase()} class="${element.className}"> ` +
        walker.currentNode.textContent.trim().slice(0, 40));
    }
  }

  const prose = article.cloneNode(true);
  prose.querySelectorAll("pre, code, script, style, mjx-container").forEach((node) => node.remove());

  const pictures = [...document.querySelectorAll("img")].map((image) => ({
    alt: image.getAttribute("alt"),
    loaded: image.complete && image.naturalWidth > 0,
    src: image.getAttribute("src"),
  }));
  const numbered = [...article.querySelectorAll("div.math")].filter((node) => node.querySelector(":scope > .eqno"));
  const colliding = numbered.filter((node) => {
    const formula = node.querySelector("mjx-container").getBoundingClientRect();
    return formula.right > node.querySelector(".eqno").getBoundingClientRect().left + 1;
  }).map((node) => node.id);
  const wide = document.documentElement.scrollWidth;
  return {
    title: document.title,
    language: document.documentElement.lang,
    mode: document.documentElement.dataset.theme,
    texts,
    weak,
    pictures,
    overflow: wide - document.documentElement.clientWidth,
    sticking: wide <= document.documentElement.clientWidth ? [] : [...article.querySelectorAll("*")]
      .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
      .slice(0, 5).map((node) => `${node.tagName} ${node.className}`),
    headings: [...article.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((node) => Number(node.tagName[1])),
    formulae: document.querySelectorAll(".math").length,
    typeset: [...document.querySelectorAll(".math")].filter((node) => node.querySelector("mjx-container")).length,
    flat: [...document.querySelectorAll(".math mjx-container")].filter((node) => visible(node.parentElement) && !visible(node)).length,
    broken: [...document.querySelectorAll("mjx-merror, [data-mml-node='merror']")].map((node) => node.textContent),
    raw: (prose.textContent.match(/\$\$|\\\(|\\\[|\\begin\{/g) || []).length,
    fonts: [...document.fonts].filter((font) => font.status === "error").map((font) => font.family),
    numbered: numbered.length,
    colliding,
    cramped: [...article.querySelectorAll("mjx-container[display='true']")]
      .filter((node) => node.scrollWidth > node.clientWidth + 1).map((node) => node.parentElement.id),
    blocks: article.querySelectorAll("div.highlight pre").length,
    buttons: article.querySelectorAll("button.copybtn").length,
  };
}
