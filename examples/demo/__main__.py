"""Starts a demo. Its imports take seconds; Ctrl-C ends it during them just as it does later."""

import sys

try:
    if sys.argv[1:2] == ["observers"]:
        from demo.observers.command import main
    elif sys.argv[1:2] == ["serve"]:
        from demo.serving.command import main
    elif sys.argv[1:2] == ["fleet"]:
        from demo.fleet.command import main
    else:
        from demo.command import main
except KeyboardInterrupt:
    print("demo: stopped", file=sys.stderr)
    sys.exit(130)

sys.exit(main())
