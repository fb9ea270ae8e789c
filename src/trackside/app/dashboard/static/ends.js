// Places whose end is what is new: one that shows its end goes on to do so while it grows, any other stays where it is.

const growing = new Map(); // what grows now, and whether its end is to be seen when it has grown

/** Before something is added to an element: has its end be seen afterwards, if it is now or `always`. Much may come at once, and
 * each look costs a layout, so there is one before all of that and one after. */
export function grow(element, always = false) {
  if (growing.has(element)) {
    if (always) growing.set(element, true);
    return;
  }
  if (!growing.size) {
    setTimeout(() => {
      for (const [one, isFollowed] of growing) if (isFollowed) one.scrollTop = one.scrollHeight;
      growing.clear();
    });
  }
  growing.set(element, always || element.scrollHeight - element.scrollTop - element.clientHeight < 40);
}
