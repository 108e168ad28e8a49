"""Which files of a person's no job needs, or nothing but the person's own programs should change: patterns, by a name.

Hidden is what gives others a person's rights elsewhere, or tells what the person did. Protected is what a shell, an
editor, git, a desktop, cron, ssh or Python runs by itself later: a host that writes it would run programs here. Both go
by what firejail, nono and Anthropic's sandbox-runtime keep.
"""

from __future__ import annotations

from collections.abc import Iterator

from remoteio.submit.export.rights import FREE, HIDDEN, KEPT, READ, RULE, Rule, pattern

HISTORIES = "histories"

# of the home directory
HIDDEN_AT_HOME = {
    "keys": """
        .gnupg .pki .cert .minisign .ecryptfs .Private .fscrypt .config/sops/age .config/keybase
        .config/age .local/share/keyrings .local/share/kwalletd .gnome2/keyrings .kde*/share/apps/kwallet
        .password-store .1password .op .config/op .config/1Password .config/Bitwarden* .config/keepassxc
        *.kdb *.kdbx .vault-token .config/rbw .local/share/pass""",
    "credentials": """
        .aws .azure .boto .s3cfg .s3cmd .passwd-s3fs .config/gcloud .gcloud .kube .docker/config.json
        .config/containers/auth.json .netrc .authinfo .authinfo.gpg .pgpass .my.cnf .mylogin.cnf .git-credentials
        .git-credential-cache .cache/git .config/git/credentials .config/gh .config/glab-cli .config/hub
        .config/github-copilot .npmrc .yarnrc.yml .pypirc .cargo/credentials .cargo/credentials.toml
        .composer/auth.json .config/composer/auth.json .gem/credentials .local/share/gem/credentials
        .m2/settings.xml .m2/settings-security.xml .terraform.d .terraformrc .config/rclone .config/doctl
        .config/hcloud .config/.wrangler .wrangler .config/stripe .config/heroku .config/configstore
        .cache/huggingface/token .cache/huggingface/stored_tokens .huggingface .davfs2/secrets .smbcredentials
        .msmtprc .config/msmtp .fetchmailrc .mutt .muttrc .config/neomutt .config/mutt .mbsyncrc
        .offlineimaprc .config/oauth2 .oci .config/openstack .config/linode-cli .databrickscfg .kaggle .snowsql
        .config/snowflake .config/fly .fly .config/netlify .vercel .config/pulumi .pulumi""",
    "browsers and mail": """
        .mozilla .config/google-chrome* .config/chromium .config/microsoft-edge* .config/BraveSoftware
        .config/vivaldi .config/opera .librewolf .waterfox .thunderbird .config/evolution .local/share/evolution
        .config/Signal .config/Slack .config/discord .config/Element .local/share/TelegramDesktop
        .cache/mozilla .cache/google-chrome .cache/chromium .var/app snap/firefox snap/chromium""",
    HISTORIES: """
        .*_history .bash_sessions .zsh_sessions .local/share/fish/fish_history .local/share/recently-used.xbel
        .lesshst .viminfo .sqlite_history .node_repl_history .wget-hsts .python_history""",
    "agents' state": """.claude .claude.json .codex .cursor .gemini .config/goose .copilot .aider*""",
    "sockets": """.docker/run .docker/desktop .colima""",
}
PROTECTED_AT_HOME = {
    "start-up files": """
        .bash* .profile .zsh* .zprofile .zlogin .zlogout .oh-my-zsh .antigen .kshrc .mkshrc .cshrc .tcshrc .login
        .logout .config/fish .config/environment.d .pam_environment .inputrc .rhosts .shosts .forward .procmailrc
        .hushlogin .config/zsh .config/bash .config/sheldon .config/starship.toml .config/direnv .direnvrc""",
    "the desktop": """
        .config/autostart .config/autostart-scripts .config/systemd .local/share/systemd .config/plasma-workspace
        .xinitrc .xprofile .xserverrc .xsession .xsessionrc .Xresources .Xdefaults .gnomerc .config/i3 .config/sway
        .config/hypr .config/awesome .config/openbox .config/lxsession .config/labwc .config/menus
        .config/mimeapps.list .local/share/applications .local/share/dbus-1 .local/share/thumbnailers
        .local/share/gnome-shell .local/share/nautilus* .config/dconf .config/user-dirs.dirs .mailcap .config/mpv
        .config/alacritty .config/kitty .config/wezterm .config/ghostty""",
    "programs": """
        .bin bin .local/bin .local/sbin .local/lib .cargo/bin .cargo/env .cargo/config .cargo/config.toml .rustup .gem
        .luarocks .nvm .npm-packages .npm-global .deno .bun .pyenv .rbenv .sdkman .asdf .local/share/mise
        .local/pipx .local/share/pipx .local/share/uv go/bin .pip .config/pip .pydistutils.cfg .condarc
        .config/uv .config/python .pythonrc .pythonrc.py .config/npm .bunfig.toml .yarnrc .gemrc .bundle/config
        .m2/extensions.xml .gradle/init.d .gradle/init.gradle .gradle/gradle.properties .ant .config/cabal""",
    "editors": """
        .vim .vimrc .gvimrc .exrc .config/nvim .local/share/nvim .emacs .emacs.d .config/emacs .nanorc .config/nano
        .config/Code/User .vscode .vscode-server .config/VSCodium .config/zed .config/helix .config/sublime-text*
        .config/JetBrains .local/share/JetBrains .ideavimrc""",
    "tools": """
        .tmux.conf .tmux .config/tmux .screenrc .gdbinit .config/gdb .lldbinit .Rprofile .Renviron .irbrc
        .psqlrc .sqliterc .guile .ghci .config/ipython .ipython .jupyter .octaverc .matplotlib .lesskey .dircolors
        .ripgreprc .wgetrc .curlrc .ackrc .agignore .toprc .config/htop .config/ranger .config/mc .config/yazi""",
    "git": """.gitconfig .gitmodules .config/git .gitattributes .git-templates .hgrc .config/hg .config/jj""",
}
# in any directory
PROTECTED_ANYWHERE = {
    "git": "",  # see _git
    "tools that a directory starts": """
        .envrc .vscode .idea .husky .mcp.json .claude .cursor .codex .agents .gemini .pre-commit-config.yaml
        .lefthook.yml lefthook.yml .devcontainer .zed .nvim.lua .nvimrc .exrc .vimrc .gvimrc .dir-locals.el
        .gdbinit .lldbinit .gitmodules .mise.toml .ripgreprc .tool-versions .autoenv .autoenv.zsh""",
    "python's start": """
        site-packages/*.pth dist-packages/*.pth sitecustomize.py usercustomize.py
        site-packages/*.egg-link sitecustomize usercustomize""",
}
# from the root on
HIDDEN_PLACES = {
    "sockets": """
        run/user tmp/ssh-* tmp/tmux-* tmp/.X11-unix tmp/.ICE-unix tmp/gpg-* tmp/keyring-* tmp/pulse-* tmp/dbus-*
        run/docker.sock var/run/docker.sock run/podman run/containerd run/dbus run/crio tmp/screens run/screen
        tmp/com.apple.launchd.* tmp/vscode-ssh-auth-* tmp/.org.chromium.*""",
}
_GIT_DIRECTORY = ("**/.git", "**/*.git", "**/git~*")
_IN_GIT = ("hooks", "config", "config.worktree", "info/attributes", "commondir")


def at_home(home: bytes) -> Iterator[Rule]:
    """The rules of one home directory, an absolute path."""
    prefix = tuple(name for name in home.split(b"/") if name)
    for table, level in ((HIDDEN_AT_HOME, HIDDEN), (PROTECTED_AT_HOME, READ)):
        for name, words in table.items():
            for word in words.split():
                yield Rule((*prefix, *pattern(word)), level, name, RULE)


def anywhere() -> Iterator[Rule]:
    """The rules of every directory that the job has not made."""
    for name, words in PROTECTED_ANYWHERE.items():
        for word in words.split():
            yield Rule(pattern("**/" + word), READ, name, RULE)
    yield from _git()


def _git() -> Iterator[Rule]:
    for repository in _GIT_DIRECTORY:
        for name in _IN_GIT:
            yield Rule(pattern(f"{repository}/{name}"), READ, "git", RULE)
            yield Rule(pattern(f"{repository}/modules/**/{name}"), READ, "git", RULE)
        for name in ("config.worktree", "commondir", "gitdir"):
            yield Rule(pattern(f"{repository}/worktrees/*/{name}"), READ, "git", RULE)
        yield Rule(pattern(f"{repository}/**/HEAD"), FREE, "git", RULE)
    yield Rule(pattern("**/HEAD"), KEPT, "git: a new repository", RULE)  # without a .git, and so in any directory


def elsewhere() -> Iterator[Rule]:
    """The rules of places that every machine has."""
    for name, words in HIDDEN_PLACES.items():
        for word in words.split():
            first, *rest = word.split("/")
            yield Rule((first.encode(), *pattern("/".join(rest))), HIDDEN, name, RULE)
