"""The commands: one module for each topic, which holds the commands' options and output.

Every module in here is imported at each start of orderctl, because `--help` lists all commands. So a module imports
at its top what `--help` needs, and within a command what that command needs: boto3 and httpx take longer to import
than `orderctl status` takes to run. `stack.target` imports boto3 within its functions for the same reason. All other
modules of orderctl import at their top.
"""
