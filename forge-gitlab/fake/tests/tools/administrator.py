"""An administrator who uses python-gitlab: makes, finds, changes and deletes runners, and looks after jobs."""

import json
import sys

import gitlab

url, token, reader = sys.argv[1:4]
said = {}

gl = gitlab.Gitlab(url, private_token=token, retry_transient_errors=True)
gl.auth()
said["user"] = gl.user.username
said["version"] = gl.version()[0]

# Runners of all three kinds.
project = gl.projects.get("acme/infra/app")
group = gl.groups.get("acme")
made = [
    gl.user.runners.create({"runner_type": "instance_type", "description": "everybody's"}),
    gl.user.runners.create({"runner_type": "group_type", "group_id": group.id, "tag_list": "linux,big"}),
    gl.user.runners.create(
        {
            "runner_type": "project_type",
            "project_id": project.id,
            "tag_list": ["arm"],
            "run_untagged": False,
            "maximum_timeout": 1200,
        }
    ),
]
said["made"] = [runner.id for runner in made]
said["verified"] = gl.runners.verify(made[0].token) is None

runner = gl.runners.get(made[2].id)
said["tags"] = runner.tag_list
said["timeout"] = runner.maximum_timeout
runner.tag_list = ["arm", "small"]
runner.paused = True
runner.save()
said["changed"] = [gl.runners.get(runner.id).tag_list, gl.runners.get(runner.id).paused]

# Lists in pages: all of them, and one page with its counts.
said["all"] = len(gl.runners_all.list(get_all=True, per_page=2))
page = gl.runners_all.list(iterator=True, per_page=2)
said["pages"] = [page.total, page.total_pages, page.per_page]
said["paused"] = [one.id for one in gl.runners_all.list(paused=True, get_all=True)]
said["of_group"] = sorted(one.id for one in group.runners.list(get_all=True))
said["of_project"] = sorted(one.id for one in project.runners.list(get_all=True))

# One project's runner is given to another, and taken back.
other = gl.projects.get("acme/other")
other.runners.create({"runner_id": runner.id})
said["given"] = sorted(one["path_with_namespace"] for one in gl.runners.get(runner.id).projects)
other.runners.delete(runner.id)

# Jobs.
running = project.jobs.list(scope=["running"], get_all=True)
said["running"] = [job.name for job in running]
job = project.jobs.get(running[0].id)
said["trace"] = job.trace().decode()
job.cancel()
said["canceled"] = project.jobs.get(job.id).status
waiting = project.jobs.list(scope="manual", get_all=True)[0]
project.jobs.get(waiting.id).play()
said["played"] = project.jobs.get(waiting.id).status
done = project.jobs.list(scope="success", get_all=True)[0]
said["artifact"] = project.jobs.get(done.id).artifacts().decode()
said["pipeline"] = [one.name for one in project.pipelines.get(done.pipeline["id"]).jobs.list(get_all=True)]

# Who is who.
said["members"] = [[one.username, one.access_level] for one in project.members_all.list(get_all=True)]
said["users"] = [one.username for one in gl.users.list(username="ada")]

# What goes wrong.
def refusal(deed):
    try:
        deed()
    except gitlab.GitlabError as error:
        return [type(error).__name__, error.response_code]

gl.runners.get(made[0].id).delete()
poor = gitlab.Gitlab(url, private_token=reader)
said["refused"] = [
    refusal(lambda: gl.runners.get(made[0].id)),
    refusal(lambda: gl.runners.verify(made[0].token)),
    refusal(lambda: gl.user.runners.create({"runner_type": "project_type"})),
    refusal(lambda: gitlab.Gitlab(url, private_token="glpat-nobody").auth()),
    refusal(lambda: poor.runners_all.list(get_all=True)),
]
json.dump(said, sys.stdout)
